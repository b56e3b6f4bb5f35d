"""LT306: single pixels of a feature map dropped, against whole channels."""

from __future__ import annotations

from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Convolutions(TinyModule):
    shape = (1, 8, 8)

    def __init__(self, dropout: type[nn.Module]) -> None:
        self.dropout = [dropout]
        super().__init__(0.05)

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), self.dropout[0](0.2),
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, CLASSES),
        )  # fmt: skip


CASES = [
    Case(
        "LT306",
        Run(lambda: Convolutions(nn.Dropout)),
        Run(lambda: Convolutions(nn.Dropout2d)),
        where="net.2",
        severity="info",
    )
]
