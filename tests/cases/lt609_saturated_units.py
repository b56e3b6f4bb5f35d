"""LT609: weights forty times too large leave nothing of a tanh layer but its signs."""

from __future__ import annotations

import torch
from torch import nn

from tests.cases._initialised import Initialised, stack
from tests.cases.case import Case, Run

ENOUGH = 210
"""Batches: a verdict comes after 192."""


@torch.no_grad()
def blown_up(net: nn.Module) -> None:
    net[2].weight.mul_(40)


CASES = [
    Case(
        code="LT609",
        sick=Run(lambda: Initialised(blown_up, make=lambda: stack(3, nn.Tanh), batches=ENOUGH)),
        healthy=Run(lambda: Initialised(make=lambda: stack(3, nn.Tanh), batches=ENOUGH)),
        where="net.2",
        severity="info",  # the layer before it still learns, and the signs tell the classes apart
        also={
            "LT205": "the weights are far larger than tanh wants",
            "LT202": "so their gradient is small for their size",
            "LT601": "and where a unit comes out of its flat end, that gradient leaps",
        },
    ),
]
