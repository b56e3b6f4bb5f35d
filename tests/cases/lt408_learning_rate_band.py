"""LT408: Adam with SGD's learning rate; Adadelta with Adam's. Both end too early for more than an info."""

from __future__ import annotations

import torch

from tests.cases._optimized import Optimized
from tests.cases.case import Case, Run

CASES = [
    Case(
        code="LT408",
        sick=Run(lambda: Optimized(lambda net: torch.optim.Adam(net.parameters(), lr=0.1))),
        healthy=Run(lambda: Optimized(lambda net: torch.optim.Adam(net.parameters(), lr=0.01))),
        where="Adam group 0",
        severity="info",
    ),
    Case(
        code="LT408",
        name="Adadelta",
        sick=Run(lambda: Optimized(lambda net: torch.optim.Adadelta(net.parameters(), lr=1e-3))),
        healthy=Run(lambda: Optimized(lambda net: torch.optim.Adadelta(net.parameters(), lr=1.0))),
        where="Adadelta group 0",
        severity="info",
    ),
]
