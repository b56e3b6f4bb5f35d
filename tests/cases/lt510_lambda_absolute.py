"""LT510: a lambda that returns the rate instead of a factor."""

from __future__ import annotations

from torch.optim.lr_scheduler import LambdaLR

from tests.cases._scheduled import Scheduled
from tests.cases.case import Case, Run


def decay(factor: float) -> Scheduled:
    return Scheduled(lambda optimizer: LambdaLR(optimizer, lambda epoch: factor * 0.9**epoch), lr=5e-3)


CASES = [
    Case(
        code="LT510",
        sick=Run(lambda: decay(5e-3), trainer={"max_epochs": 3}),
        healthy=Run(lambda: decay(1.0), trainer={"max_epochs": 3}),
        where="LambdaLR",
        severity="info",
    ),
]
