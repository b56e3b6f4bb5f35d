"""LT203: a matrix of ones, as a layer's weight and as the user's own parameter; an output of ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.cases._initialised import Initialised
from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Own(TinyModule):
    """A hidden layer of the user's own, ``x @ weight``."""

    def __init__(self, *, constant: bool) -> None:
        super().__init__(lr=0.05)
        self.weight = nn.Parameter(torch.ones(8, 16) / 4 if constant else torch.randn(8, 16) / 4)

    def build(self) -> nn.Module:
        return nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x @ self.weight).relu())  # <- ones


CASES = [
    Case(
        code="LT203",
        name="layer",
        sick=Run(lambda: Initialised(lambda net: nn.init.constant_(net[2].weight, 0.1))),
        healthy=Run(Initialised),
        where="net.2.weight",
        severity="error",
    ),
    Case(
        code="LT203",
        name="parameter",
        sick=Run(lambda: Own(constant=True)),
        healthy=Run(lambda: Own(constant=False)),
        where="weight",
        severity="error",
        line="# <- ones",
    ),
    Case(
        code="LT203",
        name="output",
        sick=Run(lambda: Initialised(lambda net: nn.init.constant_(net[4].weight, 0.1))),
        healthy=Run(Initialised),
        where="net.4.weight",
        severity="info",
    ),
]
