"""LT318: two weight layers with nothing between them."""

from __future__ import annotations

import torch
from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Stack(TinyModule):
    """Three linear layers, the first two with or without an activation between."""

    def __init__(self, between: nn.Module) -> None:
        self.between = [between]
        super().__init__(lr=0.05)

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, 16), self.between[0], nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES)
        )  # fmt: skip


class Functional(TinyModule):
    """The same with bare parameters."""

    def __init__(self, *, sick: bool) -> None:
        self.sick = sick
        super().__init__(lr=0.05)

    def build(self) -> nn.Module:
        first, second = (nn.Parameter(torch.randn(rows, 16) * rows**-0.5) for rows in (8, 16))
        return nn.ParameterDict({"first": first, "second": second, "head": nn.Parameter(torch.randn(16, CLASSES) / 4)})

    def forward(self, x):
        hidden = x @ self.net["first"]
        if not self.sick:
            hidden = hidden.relu()
        hidden = hidden @ self.net["second"]
        return hidden.relu() @ self.net["head"]


CASES = [
    Case(
        "LT318",
        Run(lambda: Stack(nn.Dropout(0.1))),
        Run(lambda: Stack(nn.GELU())),
        where="net.2",
        severity="info",
        name="module",
    ),
    Case(
        "LT318",
        Run(lambda: Functional(sick=True)),
        Run(lambda: Functional(sick=False)),
        where="",
        severity="info",
        line='hidden @ self.net["second"]',
        name="functional",
    ),
]
