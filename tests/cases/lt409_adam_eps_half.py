"""LT409: Adam's default eps on float16 weights."""

from __future__ import annotations

import torch

from lightning_tuning import TuningError
from tests.cases._optimized import Optimized
from tests.cases.case import Case, Run

HALF = {"precision": "16-true"}

CASES = [
    Case(
        code="LT409",
        sick=Run(
            lambda: Optimized(lambda net: torch.optim.Adam(net.parameters(), lr=1e-3)),
            trainer=HALF,
            ends_with=TuningError,
        ),
        healthy=Run(lambda: Optimized(lambda net: torch.optim.Adam(net.parameters(), lr=1e-3, eps=1e-4)), trainer=HALF),
        where="Adam group 0",
        severity="warning",
        also={"LT703": "the weights are infinite after one step, and the guard against NaN ends the run"},
    ),
]
