"""LT507: early stopping has less patience than the scheduler beside it."""

from __future__ import annotations

from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tests.cases._scheduled import Scheduled
from tests.cases.case import Case, Run


def run(stopping_patience: int) -> Run:
    return Run(
        lambda: Scheduled(lambda optimizer: ReduceLROnPlateau(optimizer, patience=5), monitor="val_loss"),
        trainer={"max_epochs": 2},
        callbacks=lambda: [EarlyStopping("val_loss", patience=stopping_patience)],
    )


CASES = [
    Case(code="LT507", sick=run(5), healthy=run(15), where="ReduceLROnPlateau(val_loss)", severity="warning"),
]
