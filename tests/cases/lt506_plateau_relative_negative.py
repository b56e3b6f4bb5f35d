"""LT506: a relative threshold on a log-likelihood of a density, which falls below zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tests.cases._scheduled import Scheduled
from tests.cases.case import Case, Run


class Scored(Scheduled):
    """Logs a score that is negative from the start."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_nll", torch.nn.functional.cross_entropy(self(x), y) - 3)


def plateau(**arguments: Any) -> Scored:
    return Scored(lambda o: ReduceLROnPlateau(o, patience=3, threshold=0.01, **arguments), monitor="val_nll")


CASES = [
    Case(
        code="LT506",
        sick=Run(plateau, trainer={"max_epochs": 2}),
        healthy=Run(lambda: plateau(threshold_mode="abs"), trainer={"max_epochs": 2}),
        where="ReduceLROnPlateau(val_nll)",
        severity="error",
    ),
]
