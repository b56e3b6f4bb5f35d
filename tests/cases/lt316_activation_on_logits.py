"""LT316: an activation behind the last weights, before a loss of logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Ends(TinyModule):
    """A classifier with a last module of one's choice."""

    def __init__(self, last: nn.Module) -> None:
        self.last_module = [last]
        super().__init__(lr=0.05)

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES), self.last_module[0])


class Functional(Ends):
    """The same in ``forward``, before a binary loss."""

    def __init__(self, *, sick: bool) -> None:
        super().__init__(nn.Identity())
        self.sick = sick

    def training_step(self, batch, batch_idx):
        x, y = batch
        output = self(x)
        if self.sick:
            output = F.relu(output)
        return F.binary_cross_entropy_with_logits(output, F.one_hot(y, CLASSES).float())


CASES = [
    Case(
        "LT316",
        Run(lambda: Ends(nn.ReLU())),
        Run(lambda: Ends(nn.Identity())),
        where="net.3",
        severity="error",
        name="relu",
    ),
    Case(
        "LT316",
        Run(lambda: Ends(nn.Tanh())),
        Run(lambda: Ends(nn.Identity())),
        where="net.3",
        severity="warning",
        name="tanh",
    ),
    Case(
        "LT316",
        Run(lambda: Functional(sick=True)),
        Run(lambda: Functional(sick=False)),
        where="",
        severity="error",
        line="F.relu(output)",
        name="functional",
    ),
]
