"""LT608: biases far below zero switch the first layer off for every sample, and no gradient switches it on again."""

from __future__ import annotations

from torch import nn

from tests.cases._initialised import Initialised, he
from tests.cases.case import Case, Run

ENOUGH = 260
"""Batches: a verdict comes after 192, and a run is flat after 200."""


def switched_off(net: nn.Module) -> None:
    he(net)
    nn.init.constant_(net[0].bias, -20.0)


CASES = [
    Case(
        code="LT608",
        sick=Run(lambda: Initialised(switched_off, batches=ENOUGH)),
        healthy=Run(lambda: Initialised(he, batches=ENOUGH)),
        where="net.0",
        severity="warning",
        also={
            "LT603": "the layer behind it is given zeros, and so gets a gradient of zeros",
            "LT801": "nothing is learned",
            "LT805": "every sample gets the same answer",
        },
    ),
]
