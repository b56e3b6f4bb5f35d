"""LT406: so much decay that the norm's scales shrink within the run."""

from __future__ import annotations

import torch

from lightning_tuning.functional import split_decay_groups
from tests.cases._optimized import Optimized
from tests.cases.case import Case, Run

CASES = [
    Case(
        code="LT406",
        sick=Run(lambda: Optimized(lambda net: torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=2.0))),
        healthy=Run(lambda: Optimized(lambda net: torch.optim.AdamW(split_decay_groups(net, 2.0), lr=1e-2))),
        where="AdamW group 0",
        severity="info",
    ),
]
