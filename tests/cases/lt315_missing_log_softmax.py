"""LT315: losses of probabilities that are given raw scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Nll(TinyModule):
    """``nll_loss`` with or without the log-softmax before it."""

    def __init__(self, *, sick: bool) -> None:
        self.sick = sick
        super().__init__(lr=0.01)

    def build(self) -> nn.Module:
        last = nn.Identity() if self.sick else nn.LogSoftmax(dim=1)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES), last)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.nll_loss(self(x), y)


class Binary(TinyModule):
    """``binary_cross_entropy`` with or without the sigmoid before it."""

    def __init__(self, *, sick: bool) -> None:
        self.sick = sick
        super().__init__()

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def training_step(self, batch, batch_idx):
        x, y = batch
        output = self(x) if self.sick else torch.sigmoid(self(x))
        return F.binary_cross_entropy(output, F.one_hot(y, CLASSES).float())


CASES = [
    Case(
        "LT315",
        Run(lambda: Nll(sick=True)),
        Run(lambda: Nll(sick=False)),
        where="",
        severity="error",
        line="F.nll_loss(self(x), y)",
        also={"LT206": "the mean of raw scores is near 0, and not near ln 3"},
        name="nll",
    ),
    Case(
        "LT315",
        Run(lambda: Binary(sick=True), ends_with=RuntimeError),
        Run(lambda: Binary(sick=False)),
        where="",
        severity="error",
        line="F.binary_cross_entropy(output",
        name="binary",
    ),
]
