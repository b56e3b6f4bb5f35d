"""LT503: a cosine stepped past its end; restarts are meant."""

from __future__ import annotations

from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LinearLR, SequentialLR

from tests.cases._scheduled import Scheduled
from tests.cases.case import Case, Run


def after_warmup(t_max: int) -> Scheduled:
    def schedule(optimizer):  # type: ignore[no-untyped-def]
        parts = [LinearLR(optimizer, 0.1, total_iters=2), CosineAnnealingLR(optimizer, t_max)]
        return SequentialLR(optimizer, parts, milestones=[2])

    return Scheduled(schedule, interval="step")


CASES = [
    Case(
        code="LT503",
        name="a cosine instead of restarts",
        sick=Run(lambda: Scheduled(lambda o: CosineAnnealingLR(o, 3)), trainer={"max_epochs": 6}),
        healthy=Run(lambda: Scheduled(lambda o: CosineAnnealingWarmRestarts(o, 3)), trainer={"max_epochs": 6}),
        where="CosineAnnealingLR",
        severity="warning",
    ),
    Case(
        code="LT503",
        name="a cosine after a warm-up",
        sick=Run(lambda: after_warmup(20), trainer={"max_epochs": 4}),
        healthy=Run(lambda: after_warmup(30), trainer={"max_epochs": 4}),
        where="SequentialLR",
        severity="warning",
    ),
]
