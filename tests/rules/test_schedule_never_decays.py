"""LT502: a decay that begins after the run."""

from __future__ import annotations

import pytest
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, PolynomialLR, SequentialLR, StepLR

from lightning_tuning.rules._schedule import Plan
from lightning_tuning.rules._schedule_judge import judge_schedule
from lightning_tuning.rules.schedule_never_decays import schedule_never_decays
from tests.rules.schedules import plan, warmup_cosine, warmup_linear

SICK = {
    "step beyond": plan(lambda o: StepLR(o, 30), "epoch"),
    "step at the end": plan(lambda o: StepLR(o, 10), "epoch"),
    "milestones beyond": plan(lambda o: MultiStepLR(o, [100, 150]), "epoch", epochs=90),
    "cosine of a longer run": plan(lambda o: CosineAnnealingLR(o, 50), "epoch"),
    "polynomial of a longer run": plan(lambda o: PolynomialLR(o, 20_000)),
    "lambda of a longer run": plan(warmup_linear(250, 15_000)),
    "sequence whose cosine is too long": plan(
        lambda o: SequentialLR(o, [LinearLR(o, 0.1, total_iters=2), CosineAnnealingLR(o, 98)], milestones=[2]), "epoch"
    ),
}


@pytest.mark.parametrize("sick", SICK.values(), ids=SICK.keys())
def test_sick(sick: Plan) -> None:
    found = list(judge_schedule(sick))
    assert [(finding.code, str(finding.severity)) for finding in found] == [("LT502", "warning")]
    assert found[0].evidence["ticks"] == sick.ticks
    assert found[0].evidence["last_lr"] > 0.05


@pytest.mark.parametrize(("milestone", "fires"), [(9, False), (10, True), (11, True)])
def test_the_last_epoch_must_be_reached(milestone: int, fires: bool) -> None:
    assert (schedule_never_decays(plan(lambda o: StepLR(o, milestone), "epoch")) is not None) == fires


def test_a_lambda_that_reaches_half_in_the_last_of_two_epochs() -> None:
    assert schedule_never_decays(plan(warmup_cosine(1, 3), "epoch", epochs=3)) is None
    assert schedule_never_decays(plan(warmup_cosine(0, 2), "epoch", epochs=2)) is None


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_steps_that_are_no_decay(gamma: float) -> None:
    assert schedule_never_decays(plan(lambda o: StepLR(o, 30, gamma=gamma), "epoch")) is None


def test_no_rate_at_all() -> None:
    assert schedule_never_decays(plan(lambda o: StepLR(o, 30), "epoch", lr=0.0)) is None
