"""LT602: a learning rate that drives tanh layers into saturation, so that nothing arrives at the first one."""

from __future__ import annotations

from torch import nn

from tests.cases._initialised import Initialised, stack
from tests.cases.case import Case, Run


def run(lr: float) -> Run:
    return Run(lambda: Initialised(make=lambda: stack(3, nn.Tanh), lr=lr, batches=400))


CASES = [
    Case(
        code="LT602",
        sick=run(3.0),
        healthy=run(0.02),
        where="net.0.weight",
        severity="warning",
        also={
            "LT408": "that is the reason",
            "LT413": "nor does it warm up",
            "LT609": "what the rate does to the tanh units, and why no gradient passes",
            "LT801": "so nothing is learned",
            "LT802": "or the loss leaves its minimum, by how the processor rounds",
            "LT803": "or it swings, likewise",
            "LT601": "on the way there the gradients leap",
        },
    ),
]
