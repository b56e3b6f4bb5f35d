"""LT311: two blocks with the norm before the activation, two with it behind."""

from __future__ import annotations

from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


def block(inputs: int, *, norm_first: bool) -> nn.Sequential:
    rest = [nn.BatchNorm1d(16), nn.ReLU()]
    return nn.Sequential(nn.Linear(inputs, 16, bias=False), *(rest if norm_first else reversed(rest)))


class Blocks(TinyModule):
    def __init__(self, *orders: bool) -> None:
        self.orders = orders
        super().__init__(0.05, batch_size=32)

    def build(self) -> nn.Module:
        blocks = [block(16 if i else 8, norm_first=first) for i, first in enumerate(self.orders)]
        return nn.Sequential(*blocks, nn.Linear(16, CLASSES))


CASES = [
    Case(
        "LT311",
        Run(lambda: Blocks(True, True, False, False)),
        Run(lambda: Blocks(True, True, True, True)),
        where="net.2.2",
        severity="info",
    )
]
