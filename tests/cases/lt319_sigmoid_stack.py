"""LT319: three sigmoids in a row."""

from __future__ import annotations

from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Deep(TinyModule):
    """Three hidden layers."""

    def __init__(self, activation: type[nn.Module]) -> None:
        self.activation = [activation]
        super().__init__(lr=0.05)

    def build(self) -> nn.Module:
        layers: list[nn.Module] = []
        for width in (8, 16, 16):
            layers += [nn.Linear(width, 16), self.activation[0]()]
        return nn.Sequential(*layers, nn.Linear(16, CLASSES))


CASES = [
    Case(
        "LT319",
        Run(lambda: Deep(nn.Sigmoid)),
        Run(lambda: Deep(nn.ReLU)),
        where="net.1",
        severity="info",
        also={
            "LT201": "what the sigmoids let through hardly varies between samples",
            "LT202": "three of their slopes lie before the first gradient",
        },
    ),
]
