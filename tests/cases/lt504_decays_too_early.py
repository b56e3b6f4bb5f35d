"""LT504: a decay for epochs, stepped per batch."""

from __future__ import annotations

from torch.optim.lr_scheduler import ExponentialLR

from tests.cases._scheduled import Scheduled
from tests.cases.case import Case, Run


def exponential(interval: str) -> Scheduled:
    return Scheduled(lambda optimizer: ExponentialLR(optimizer, 0.7), interval=interval)


CASES = [
    Case(
        code="LT504",
        sick=Run(lambda: exponential("step"), trainer={"max_epochs": 5}),
        healthy=Run(lambda: exponential("epoch"), trainer={"max_epochs": 5}),
        where="ExponentialLR",
        severity="warning",
    ),
]
