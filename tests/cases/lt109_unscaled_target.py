"""LT109: a price of some ten thousand, predicted by a fresh layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.cases._data import Regressor
from tests.cases.case import Case, Run


def prices(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, 20_000 + 5_000 * y


def thousands(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, prices(x, y)[1] / 20_000 - 1


class Patient(Regressor):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


CASES = [
    Case(
        code="LT109",
        sick=Run(lambda: Patient(prices)),
        healthy=Run(lambda: Patient(thousands)),
        where="batch[1]",
        severity="info",
        also={"LT206": "the first loss is what a mean of 20000 makes it", "LT207": "the bias stands at 0"},
    ),
    Case(
        code="LT109",
        name="in a run that does not learn",
        sick=Run(lambda: Patient(prices, batches=260)),
        healthy=Run(lambda: Patient(thousands, batches=260)),
        where="batch[1]",
        severity="warning",
        also={
            "LT206": "the first loss is what a mean of 20000 makes it",
            "LT207": "the bias stands at 0",
            "LT801": "it is far from the targets still",
            "LT805": "seen from there, its outputs are all the same",
        },
    ),
]
