"""LT504: rates that are gone before half time."""

from __future__ import annotations

import pytest
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, StepLR

from lightning_tuning.rules._schedule import Plan
from lightning_tuning.rules._schedule_judge import judge_schedule
from lightning_tuning.rules.decays_too_early import decays_too_early
from tests.rules.schedules import plan, warmup_linear

SICK = {
    "exponential per batch": plan(lambda o: ExponentialLR(o, 0.95)),
    "exponential per batch, stopped early": plan(lambda o: ExponentialLR(o, 0.95), epochs=1000, surely=4),
    "steps per batch": plan(lambda o: StepLR(o, 30)),
    "lambda in epochs": plan(warmup_linear(1, 10)),
    "too steep": plan(lambda o: ExponentialLR(o, 0.3), "epoch"),
}


@pytest.mark.parametrize("sick", SICK.values(), ids=SICK.keys())
def test_sick(sick: Plan) -> None:
    found = list(judge_schedule(sick))
    assert [(finding.code, str(finding.severity)) for finding in found] == [("LT504", "warning")]
    assert found[0].evidence["tick"] < sick.certain_ticks / 2


def test_the_ninetieth_batch() -> None:
    found = decays_too_early(plan(lambda o: ExponentialLR(o, 0.95)))
    assert found is not None
    assert found.evidence["tick"] == 90


@pytest.mark.parametrize(("at", "fires"), [(4, True), (5, False), (6, False)])
def test_half_of_the_run(at: int, fires: bool) -> None:
    falls = plan(lambda o: LambdaLR(o, lambda epoch: 1.0 if epoch < at else 1e-3), "epoch")
    assert (decays_too_early(falls) is not None) == fires


def test_one_percent_itself_is_allowed() -> None:
    assert decays_too_early(plan(lambda o: StepLR(o, 10), "epoch", epochs=30)) is None
    assert decays_too_early(plan(lambda o: StepLR(o, 1, gamma=0.0), "epoch", epochs=3)) is None  # too short to tell


def test_no_rate_at_all() -> None:
    assert decays_too_early(plan(lambda o: ExponentialLR(o, 0.95), lr=0.0)) is None
