"""LT502: the first milestone lies beyond the run."""

from __future__ import annotations

from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from tests.cases._scheduled import Scheduled
from tests.cases.case import Case, Run


def milestones(*epochs: int) -> Scheduled:
    return Scheduled(lambda optimizer: MultiStepLR(optimizer, list(epochs)))


def cosine(t_max: int) -> Scheduled:
    return Scheduled(lambda optimizer: CosineAnnealingLR(optimizer, t_max))


CASES = [
    Case(
        code="LT502",
        name="milestones beyond the run",
        sick=Run(lambda: milestones(30, 60), trainer={"max_epochs": 4}),
        healthy=Run(lambda: milestones(2, 3), trainer={"max_epochs": 4}),
        where="MultiStepLR",
        severity="warning",
    ),
    Case(
        code="LT502",
        name="a cosine for a longer run",
        sick=Run(lambda: cosine(12), trainer={"max_epochs": 4}),
        healthy=Run(lambda: cosine(4), trainer={"max_epochs": 4}),
        where="CosineAnnealingLR",
        severity="warning",
    ),
]
