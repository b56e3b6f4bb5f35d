"""LT610: ten layers of torch's default weights lose the signal; with a batch norm after each they keep it."""

from __future__ import annotations

from torch import nn

from tests.cases._initialised import Initialised, stack
from tests.cases.case import Case, Run
from tests.helpers import CLASSES


def normalized(depth: int) -> nn.Module:
    layers: list[nn.Module] = []
    for number in range(depth - 1):
        layers += [nn.Linear(32 if number else 8, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, CLASSES))


CASES = [
    Case(
        code="LT610",
        sick=Run(lambda: Initialised(make=lambda: stack(10), lr=0.02, batches=12)),
        healthy=Run(lambda: Initialised(make=lambda: normalized(10), lr=0.02, batches=12)),
        where="",
        severity="info",
        also={"LT201": "the signal is lost, so it is advised", "LT202": "the gradient is lost on the same way"},
    ),
]
