"""LT304: dropout behind the last weight layer instead of before it, under cross entropy and squared error."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Behind(TinyModule):
    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, CLASSES), nn.Dropout(0.2))


class Before(TinyModule):
    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, CLASSES))


class Regression(TinyModule):
    """Predicts the first feature; dropout by a function, before or behind the last layer."""

    def __init__(self, *, behind: bool) -> None:
        super().__init__(0.01)
        self.behind = behind

    def build(self) -> nn.Module:
        return nn.ModuleList([nn.Linear(8, 32), nn.Linear(32, 1)])

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.net[0](x).relu()
        if self.behind:
            return F.dropout(self.net[1](hidden), 0.1, self.training).squeeze(1)  # here
        return self.net[1](F.dropout(hidden, 0.1, self.training)).squeeze(1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        return F.mse_loss(self(x), x[:, 0])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, _ = batch
        self.log("val_loss", F.mse_loss(self(x), x[:, 0]))


CASES = [
    Case("LT304", Run(Behind), Run(Before), where="net.3", severity="warning"),
    Case(
        "LT304",
        Run(lambda: Regression(behind=True)),
        Run(lambda: Regression(behind=False)),
        where="",
        severity="warning",
        line="F.dropout(self.net[1]",
        name="regression",
    ),
]
