"""LT503: cosines that are stepped past their end."""

from __future__ import annotations

import math

import pytest
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from lightning_tuning.rules._schedule import Plan
from lightning_tuning.rules._schedule_judge import judge_schedule
from lightning_tuning.rules.schedule_rises_again import schedule_rises_again
from tests.rules.schedules import plan, sequential, warmup_cosine

SICK = {
    "half of the run": plan(lambda o: CosineAnnealingLR(o, 100), "epoch", epochs=200),
    "a tenth of the run": plan(lambda o: CosineAnnealingLR(o, 10), "epoch", epochs=100),
    "in batches": plan(lambda o: CosineAnnealingLR(o, 2500)),
    "after a warm-up": plan(sequential(250, 3000)),
    "a lambda": plan(warmup_cosine(250, 3000)),
    "before early stopping": plan(lambda o: CosineAnnealingLR(o, 10), "epoch", epochs=1000, surely=20),
}


@pytest.mark.parametrize("sick", SICK.values(), ids=SICK.keys())
def test_sick(sick: Plan) -> None:
    found = list(judge_schedule(sick))
    assert [(finding.code, str(finding.severity)) for finding in found] == [("LT503", "warning")]
    assert found[0].evidence["climbs_to"] > found[0].evidence["lowest"] + 0.01


@pytest.mark.parametrize(("t_max", "fires"), [(100, False), (99, False), (90, False), (75, True), (50, True)])
def test_a_tenth_of_the_highest_rate(t_max: int, fires: bool) -> None:
    found = schedule_rises_again(plan(lambda o: CosineAnnealingLR(o, t_max), "epoch", epochs=100))
    assert (found is not None) == fires


def test_a_cosine_that_hardly_moves() -> None:
    assert schedule_rises_again(plan(lambda o: CosineAnnealingLR(o, 50, 0.095), "epoch", epochs=100)) is None


def test_lambdas_that_mean_it() -> None:
    restarts = plan(lambda o: LambdaLR(o, lambda s: 0.5 * (1 + math.cos(math.pi * (s % 1000) / 1000))))
    triangles = plan(lambda o: LambdaLR(o, lambda s: abs(s % 2000 - 1000) / 1000))
    assert schedule_rises_again(restarts) is None
    assert schedule_rises_again(triangles) is None
