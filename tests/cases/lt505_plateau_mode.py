"""LT505: those who wait for an accuracy to fall."""

from __future__ import annotations

from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tests.cases._scheduled import Scheduled
from tests.cases.case import Case, Run
from tests.helpers import Mlp


def plateau(mode: str) -> Scheduled:
    return Scheduled(lambda optimizer: ReduceLROnPlateau(optimizer, mode, patience=3), monitor="val_acc")


def stopping(mode: str) -> Run:
    return Run(lambda: Mlp(batches=8), callbacks=lambda: [EarlyStopping("val_acc", mode=mode)])


CASES = [
    Case(
        code="LT505",
        name="plateau scheduler",
        sick=Run(lambda: plateau("min"), trainer={"max_epochs": 2}),
        healthy=Run(lambda: plateau("max"), trainer={"max_epochs": 2}),
        where="ReduceLROnPlateau(val_acc)",
        severity="error",
    ),
    Case(
        code="LT505",
        name="early stopping",
        sick=stopping("min"),
        healthy=stopping("max"),
        where="EarlyStopping(val_acc)",
        severity="error",
    ),
]
