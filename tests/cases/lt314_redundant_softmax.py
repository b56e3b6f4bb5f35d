"""LT314: the net ends in a softmax, and the loss has its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Ends(TinyModule):
    """A classifier with a last module of one's choice, and a loss of logits."""

    def __init__(self, last: nn.Module, loss: str = "function") -> None:
        self.last_module, self.loss = [last], loss
        super().__init__(lr=0.05)

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES), self.last_module[0])

    def training_step(self, batch, batch_idx):
        x, y = batch
        output = self(x)
        if self.loss == "by hand":
            return -F.log_softmax(output, dim=1)[range(len(y)), y].mean()
        if self.loss == "binary":
            return F.binary_cross_entropy_with_logits(output, F.one_hot(y, CLASSES).float())
        return F.cross_entropy(output, y)


class Functional(Ends):
    """The same, with the softmax in ``forward``."""

    def __init__(self, *, sick: bool) -> None:
        super().__init__(nn.Identity())
        self.sick = sick

    def forward(self, x):
        output = self.net(x)
        return torch.softmax(output, 1) if self.sick else output


CASES = [
    Case(
        "LT314",
        Run(lambda: Ends(nn.Softmax(dim=1))),
        Run(lambda: Ends(nn.Identity())),
        where="net.3",
        severity="error",
        name="module",
    ),
    Case(
        "LT314",
        Run(lambda: Functional(sick=True)),
        Run(lambda: Functional(sick=False)),
        where="",
        severity="error",
        line="torch.softmax(output, 1)",
        name="functional",
    ),
    Case(
        "LT314",
        Run(lambda: Ends(nn.Softmax(dim=1), "by hand")),
        Run(lambda: Ends(nn.Identity(), "by hand")),
        where="net.3",
        severity="error",
        name="loss by hand",
    ),
    Case(
        "LT314",
        Run(lambda: Ends(nn.Sigmoid(), "binary")),
        Run(lambda: Ends(nn.Identity(), "binary")),
        where="net.3",
        severity="error",
        name="binary",
    ),
    Case(
        "LT314",
        Run(lambda: Ends(nn.LogSoftmax(dim=1))),
        Run(lambda: Ends(nn.Identity())),
        where="net.3",
        severity="info",
        name="harmless",
    ),
]
