"""LT105: a column of predictions against a row of targets, in a loss function and written by hand."""

from __future__ import annotations

from torch import Tensor

from tests.cases._data import Regressor
from tests.cases.case import Case, Run


def flat(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, y.squeeze(1)


class ByHand(Regressor):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return ((self(x) - y) ** 2).mean()  # each with each


CASES = [
    Case(
        code="LT105",
        name="mse_loss",
        sick=Run(lambda: Regressor(flat)),
        healthy=Run(Regressor),
        where="",
        severity="error",
    ),
    Case(
        code="LT105",
        name="by hand",
        sick=Run(lambda: ByHand(flat)),
        healthy=Run(ByHand),
        where="",
        severity="error",
        line="each with each",
    ),
]
