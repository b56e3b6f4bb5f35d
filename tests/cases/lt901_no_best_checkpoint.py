"""LT901: early stopping ends the run past its best epoch, and the latest one alone is kept."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from tests.cases.case import Case, Run
from tests.helpers import Mlp


def run(**arguments: Any) -> Run:
    return Run(
        Mlp,
        trainer={"logger": CSVLogger("."), "enable_checkpointing": True, "log_every_n_steps": 8},
        callbacks=lambda: [EarlyStopping("val_loss"), ModelCheckpoint(dirpath="kept", **arguments)],
    )


CASES = [
    Case(code="LT901", sick=run(), healthy=run(monitor="val_loss"), where="ModelCheckpoint", severity="info"),
]
