"""LT605: a learning rate that gets nowhere."""

from __future__ import annotations

import torch

from tests.cases._optimized import Optimized
from tests.cases.case import Case, Run


def adam(lr: float) -> Run:
    return Run(lambda: Optimized(lambda module: torch.optim.AdamW(module.parameters(), lr=lr), batches=400))


REASON = {"LT408": "that is the reason", "LT801": "so nothing is learned"}

CASES = [
    Case(code="LT605", sick=adam(1e-8), healthy=adam(3e-3), where="AdamW group 0", severity="warning", also=REASON),
]
