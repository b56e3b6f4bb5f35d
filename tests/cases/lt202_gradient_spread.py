"""LT202: six sigmoid layers let a millionth of the gradient through, tanh layers nearly all of it."""

from __future__ import annotations

from torch import nn

from tests.cases._initialised import Initialised, stack
from tests.cases.case import Case, Run

CASES = [
    Case(
        code="LT202",
        sick=Run(lambda: Initialised(make=lambda: stack(6, nn.Sigmoid), batches=12)),
        healthy=Run(lambda: Initialised(make=lambda: stack(6, nn.Tanh), batches=12)),
        where="net.0.weight",
        severity="info",  # of a symptom, as long as nobody knows how the run goes
        also={
            "LT201": "0.5 +- a little is all that sigmoids give",
            "LT319": "it is a stack of sigmoids",
        },
    ),
]
