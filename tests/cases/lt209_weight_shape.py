"""LT209: a weight of shape (in, out) in a linear layer; the first batch does not get through."""

from __future__ import annotations

import torch
from torch import nn

from tests.cases._initialised import Initialised
from tests.cases.case import Case, Run


def replace(net: nn.Module, *shape: int) -> None:
    net[2].weight = nn.Parameter(torch.randn(*shape) / 6)


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


CASES = [
    Case(
        code="LT209",
        sick=Run(lambda: Initialised(lambda net: replace(net, 32, 3), make), ends_with=RuntimeError),
        healthy=Run(lambda: Initialised(lambda net: replace(net, 3, 32), make)),
        where="net.2.weight",
        severity="error",
    ),
]
