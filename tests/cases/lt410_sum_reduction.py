"""LT410: the loss is a sum over the samples."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Reduced(TinyModule):
    """A classifier whose loss is a sum or a mean."""

    def __init__(self, reduction: str, *, lr: float) -> None:
        super().__init__(lr=lr)
        self.reduction = reduction

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y, reduction=self.reduction)


class ByHand(Reduced):
    """Squared differences, put together by hand."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        squared = (self(x) - F.one_hot(y, CLASSES)).square().mean(dim=1)
        return squared.sum() if self.reduction == "sum" else squared.sum() / len(x)


CASES = [
    Case(
        "LT410",
        Run(lambda: Reduced("sum", lr=0.002)),
        Run(lambda: Reduced("mean", lr=0.03)),
        where="",
        severity="warning",
        line="reduction=self.reduction",
        name="function",
    ),
    Case(
        "LT410",
        Run(lambda: ByHand("sum", lr=0.002)),
        Run(lambda: ByHand("mean", lr=0.03)),
        where="",
        severity="warning",
        line="self(x) - F.one_hot",
        name="by hand",
    ),
]
