"""LT604: an Adam whose steps are as large as the weights."""

from __future__ import annotations

import torch

from tests.cases._optimized import Optimized
from tests.cases.case import Case, Run


def adam(lr: float) -> Run:
    return Run(lambda: Optimized(lambda module: torch.optim.Adam(module.parameters(), lr=lr), batches=500))


CASES = [
    Case(code="LT604", sick=adam(3.0), healthy=adam(3e-3), where="net.0.weight", severity="warning", also={}),
]
