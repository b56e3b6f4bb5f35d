"""LT601: a learning rate that grows without end makes the gradients explode."""

from __future__ import annotations

from tests.cases.case import Case, Run
from tests.cases.lt802_diverging_loss import Growing

CASES = [
    Case(
        code="LT601",
        sick=Run(lambda: Growing(3000.0)),
        healthy=Run(lambda: Growing(0.1)),
        where="net.4.bias",
        severity="warning",
        also={
            "LT407": "plain SGD, so that it diverges slowly, in a run that goes wrong",
            "LT408": "the cause: the rate leaves its band",
            "LT802": "the loss diverges with them",
            "LT805": "the units that it has killed give every sample the same answer",
            "LT807": "and the loss jumps",
        },
    ),
]
