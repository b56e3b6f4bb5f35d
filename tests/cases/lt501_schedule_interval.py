"""LT501: lengths in batches stepped per epoch, and the other way round."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, StepLR

from tests.cases._scheduled import Scheduled
from tests.cases.case import Case, Run


def cosine(t_max: int, interval: str) -> Scheduled:
    return Scheduled(lambda optimizer: CosineAnnealingLR(optimizer, t_max), batches=4, interval=interval)


def warmup_cosine(interval: str) -> Scheduled:
    def factor(step: int) -> float:
        return step / 4 if step < 4 else 0.5 * (1 + math.cos(math.pi * min(1.0, (step - 4) / 36)))

    return Scheduled(lambda optimizer: LambdaLR(optimizer, factor), interval=interval)


def one_cycle(total_steps: int) -> Scheduled:
    def schedule(optimizer: Optimizer) -> OneCycleLR:
        return OneCycleLR(optimizer, max_lr=0.1, total_steps=total_steps)

    return Scheduled(schedule, interval="step")


CASES = [
    Case(
        code="LT501",
        name="length in batches, stepped per epoch",
        sick=Run(lambda: cosine(20, "epoch"), trainer={"max_epochs": 5}),
        healthy=Run(lambda: cosine(20, "step"), trainer={"max_epochs": 5}),
        where="CosineAnnealingLR",
        severity="warning",
    ),
    Case(
        code="LT501",
        name="length in epochs, stepped per batch",
        sick=Run(lambda: cosine(5, "step"), trainer={"max_epochs": 5}),
        healthy=Run(lambda: cosine(5, "epoch"), trainer={"max_epochs": 5}),
        where="CosineAnnealingLR",
        severity="warning",
    ),
    Case(
        code="LT501",
        name="a warm-up that is never over",
        sick=Run(lambda: warmup_cosine("epoch"), trainer={"max_epochs": 5}),
        healthy=Run(lambda: warmup_cosine("step"), trainer={"max_epochs": 5}),
        where="LambdaLR",
        severity="warning",
    ),
    Case(
        code="LT501",
        name="one cycle that raises in mid-run",
        sick=Run(lambda: one_cycle(10), trainer={"max_epochs": 2}, ends_with=ValueError),
        healthy=Run(lambda: one_cycle(16), trainer={"max_epochs": 2}),
        where="OneCycleLR",
        severity="error",
    ),
    Case(
        code="LT501",
        name="a frequency that never comes round",
        sick=Run(
            lambda: Scheduled(lambda o: StepLR(o, 1, 0.7), interval="step", frequency=20), trainer={"max_epochs": 2}
        ),
        healthy=Run(
            lambda: Scheduled(lambda o: StepLR(o, 1, 0.7), interval="step", frequency=4), trainer={"max_epochs": 2}
        ),
        where="StepLR",
        severity="warning",
    ),
]
