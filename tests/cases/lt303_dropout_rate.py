"""LT303: keep probabilities passed as p, in a module, in a function, and at the input."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Hidden(TinyModule):
    """Dropout behind the hidden layer, by a module."""

    def __init__(self, p: float) -> None:
        self.p = [p]
        super().__init__()

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(self.p[0]), nn.Linear(64, CLASSES))


class Functional(Hidden):
    """The same by a function, in the LightningModule itself."""

    def build(self) -> nn.Module:
        return nn.ModuleList([nn.Linear(8, 64), nn.Linear(64, CLASSES)])

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.net[0](x).relu()
        hidden = F.dropout(hidden, self.p[0], training=self.training)  # here
        return self.net[1](hidden)


class Input(Hidden):
    """Dropout on the batch itself."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Dropout(self.p[0]), nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, CLASSES))


CASES = [
    Case("LT303", Run(lambda: Hidden(0.9)), Run(lambda: Hidden(0.1)), where="net.2", severity="warning"),
    Case(
        "LT303",
        Run(lambda: Functional(0.8)),
        Run(lambda: Functional(0.2)),
        where="",
        severity="warning",
        line="F.dropout(hidden",
        name="functional",
    ),
    Case(
        "LT303",
        Run(lambda: Hidden(1.0)),
        Run(lambda: Hidden(0.5)),
        where="net.2",
        severity="error",
        name="everything",
    ),
    Case("LT303", Run(lambda: Input(0.4)), Run(lambda: Input(0.1)), where="net.0", severity="info", name="input"),
]
