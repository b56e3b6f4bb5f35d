"""LT407: SGD without momentum, in a run that is not seen to learn."""

from __future__ import annotations

import torch

from tests.cases._optimized import Optimized
from tests.cases.case import Case, Run

CASES = [
    Case(
        code="LT407",
        sick=Run(lambda: Optimized(lambda net: torch.optim.SGD(net.parameters(), lr=0.05))),
        healthy=Run(lambda: Optimized(lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9))),
        where="SGD group 0",
        severity="info",
    ),
]
