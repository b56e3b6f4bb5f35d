"""LT317: class probabilities over the batch, or over a single output."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class OverAxis(TinyModule):
    """A classifier whose log-probabilities are taken over one axis or the other."""

    def __init__(self, axis: int, *, by_hand: bool = False) -> None:
        super().__init__(lr=0.05)
        self.axis, self.by_hand = axis, by_hand

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.by_hand:
            return -(F.one_hot(y, CLASSES) * torch.log(F.softmax(self(x), dim=self.axis))).sum(1).mean()
        return F.nll_loss(F.log_softmax(self(x), dim=self.axis), y)


class OneOutput(TinyModule):
    """One output per sample; a sigmoid would make a probability of it, a softmax makes 1."""

    def __init__(self, last: nn.Module) -> None:
        self.last_module = [last]
        super().__init__()

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1), self.last_module[0])

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.binary_cross_entropy(self(x).squeeze(1), (y == 0).float())

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.binary_cross_entropy(self(x).squeeze(1), (y == 0).float()))


CASES = [
    Case(
        "LT317",
        Run(lambda: OverAxis(0)),
        Run(lambda: OverAxis(1)),
        where="",
        severity="error",
        line="dim=self.axis), y)",
        also={
            "LT315": "over the batch they do not sum to 1 in a row",
            "LT206": "the first loss is ln 16, of the batch size, and not ln 3",
        },
        name="batch",
    ),
    Case(
        "LT317",
        Run(lambda: OverAxis(0, by_hand=True)),
        Run(lambda: OverAxis(1, by_hand=True)),
        where="",
        severity="error",
        line="F.softmax(self(x), dim=self.axis)",
        name="by hand",
    ),
    Case(
        "LT317",
        Run(lambda: OneOutput(nn.Softmax(dim=1))),
        Run(lambda: OneOutput(nn.Sigmoid())),
        where="net.3",
        severity="error",
        name="one output",
    ),
]
