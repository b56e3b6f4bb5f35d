"""LT206: an output layer drawn from N(0, 1) is sure of wrong answers."""

from __future__ import annotations

from torch import nn

from tests.cases._initialised import Initialised, he
from tests.cases.case import Case, Run


def change(net: nn.Module, std: float) -> None:
    he(net)
    nn.init.normal_(net[4].weight, std=std)


CASES = [
    Case(
        code="LT206",
        sick=Run(lambda: Initialised(lambda net: change(net, 1.0), lr=0.01)),
        healthy=Run(lambda: Initialised(lambda net: change(net, 0.1), lr=0.01)),
        where="net.4",
        severity="info",  # of a symptom, as long as nobody knows how the run goes
    ),
]
