"""LT204: a parameter in memory as it came, with pieces of addresses in it; NaN from a wrong standard deviation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule

ADDRESSES = [0x7F3C_0000_1000 + 64 * i for i in range(16)]
"""What ``torch.FloatTensor(32)`` may find in memory; it itself finds something else each time."""


class Shifted(TinyModule):
    """A hidden layer with a bias of the user's own."""

    def __init__(self, *, filled: bool) -> None:
        super().__init__()
        memory = torch.tensor(ADDRESSES).view(torch.float32)
        self.shift = nn.Parameter(torch.zeros(32) if filled else memory)

    def build(self) -> nn.Module:
        return nn.ModuleList([nn.Linear(8, 32, bias=False), nn.Linear(32, CLASSES)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[1]((self.net[0](x) + self.shift).relu())


CASES = [
    Case(
        code="LT204",
        sick=Run(lambda: Shifted(filled=False)),
        healthy=Run(lambda: Shifted(filled=True)),
        where="shift",
        severity="error",
    ),
]
