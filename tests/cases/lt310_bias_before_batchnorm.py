"""LT310: a convolution with a bias that its batch norm subtracts."""

from __future__ import annotations

from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Convolution(TinyModule):
    shape = (1, 8, 8)

    def __init__(self, *, bias: bool) -> None:
        self.bias = [bias]
        super().__init__()

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=self.bias[0]), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(32, CLASSES),
        )  # fmt: skip


CASES = [
    Case(
        "LT310",
        Run(lambda: Convolution(bias=True)),
        Run(lambda: Convolution(bias=False)),
        where="net.0.bias",
        severity="info",
    )
]
