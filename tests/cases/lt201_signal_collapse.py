"""LT201: twelve layers of torch's default weights lose the signal, He's weights keep it."""

from __future__ import annotations

from tests.cases._initialised import Initialised, he, stack
from tests.cases.case import Case, Run

CASES = [
    Case(
        code="LT201",
        sick=Run(lambda: Initialised(make=lambda: stack(12), lr=0.02, batches=12)),
        healthy=Run(lambda: Initialised(he, make=lambda: stack(12), lr=0.02, batches=12)),
        where="net.10",
        severity="info",  # of a symptom, as long as nobody knows how the run goes
        also={"LT202": "the gradient is lost on the same way", "LT610": "twelve plain layers want a normalization"},
    ),
]
