"""LT512: half of the run is warm-up; said because the run is over before anybody could see it learn."""

from __future__ import annotations

from torch.optim.lr_scheduler import LinearLR

from tests.cases._scheduled import Scheduled
from tests.cases.case import Case, Run


def warmup(steps: int) -> Scheduled:
    # At this rate nothing moves: advice is for runs that do not learn.
    return Scheduled(lambda o: LinearLR(o, 0.01, total_iters=steps), lr=1e-5, batches=4, interval="step")


CASES = [
    Case(
        code="LT512",
        sick=Run(lambda: warmup(60), trainer={"max_epochs": 30}),
        healthy=Run(lambda: warmup(6), trainer={"max_epochs": 30}),
        where="LinearLR",
        severity="info",
    ),
]
