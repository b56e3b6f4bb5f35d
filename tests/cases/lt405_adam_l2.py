"""LT405: weight decay in Adam instead of AdamW."""

from __future__ import annotations

import torch

from tests.cases._optimized import Optimized
from tests.cases.case import Case, Run

CASES = [
    Case(
        code="LT405",
        sick=Run(lambda: Optimized(lambda net: torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=0.01))),
        healthy=Run(lambda: Optimized(lambda net: torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.01))),
        where="Adam group 0",
        severity="info",
    ),
]
