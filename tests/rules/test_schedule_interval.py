"""LT501: lengths in one unit, steps in the other."""

from __future__ import annotations

import pytest
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, OneCycleLR, PolynomialLR, StepLR

from lightning_tuning.rules._schedule import Plan
from lightning_tuning.rules._schedule_judge import judge_schedule
from lightning_tuning.rules.schedule_interval import schedule_interval
from tests.rules.schedules import HEALTHY, plan, sequential, warmup_constant, warmup_cosine, warmup_linear

SICK = {
    "the table's cosine": plan(lambda o: CosineAnnealingLR(o, 20), "epoch", epochs=5, batches=4),
    "cosine in batches": plan(lambda o: CosineAnnealingLR(o, 5000), "epoch"),
    "polynomial in batches": plan(lambda o: PolynomialLR(o, 5000), "epoch"),
    "one cycle in batches": plan(lambda o: OneCycleLR(o, 0.1, total_steps=5000), "epoch"),
    "warm-up of an epoch's batches": plan(lambda o: LinearLR(o, 0.01, total_iters=500), "epoch"),
    "lambda in batches": plan(warmup_cosine(250, 5000), "epoch"),
    "lambda in batches, no warm-up": plan(warmup_linear(1, 5000), "epoch"),
    "lambda in batches, one epoch": plan(warmup_linear(250, 5000), "epoch", epochs=1, batches=5000),
    "lambda in batches, less than an epoch": plan(
        warmup_cosine(100, 1000), "epoch", epochs=None, batches=50_000, max_steps=1000
    ),
    "warm-up in batches, then constant": plan(warmup_constant(250), "epoch"),
    "sequence in batches": plan(sequential(100, 4900), "epoch"),
    "sequence in batches, from a third": plan(sequential(100, 4900, start=1 / 3), "epoch"),
    "cosine in epochs": plan(lambda o: CosineAnnealingLR(o, 10)),
    "milestones in epochs": plan(lambda o: MultiStepLR(o, [5, 8])),
    "polynomial in epochs": plan(lambda o: PolynomialLR(o, 10)),
}


@pytest.mark.parametrize("sick", SICK.values(), ids=SICK.keys())
def test_sick(sick: Plan) -> None:
    found = list(judge_schedule(sick))
    assert [(finding.code, str(finding.severity), finding.where) for finding in found] == [
        ("LT501", "warning", type(sick.scheduler).__name__)
    ]
    assert found[0].evidence["interval"] == sick.interval


@pytest.mark.parametrize("healthy", HEALTHY.values(), ids=HEALTHY.keys())
def test_healthy(healthy: Plan) -> None:
    """Of this rule and of every other."""
    assert list(judge_schedule(healthy)) == []


@pytest.mark.parametrize(("total", "raises_at"), [(10, 11), (4999, 5000)])
def test_one_cycle_that_ends_before_the_run(total: int, raises_at: int) -> None:
    found = list(judge_schedule(plan(lambda o: OneCycleLR(o, 0.1, total_steps=total))))
    assert [(finding.code, str(finding.severity)) for finding in found] == [("LT501", "error")]
    assert f"raises ValueError at step {raises_at}" in found[0].message


def test_an_error_is_certain_only_where_early_stopping_cannot_forestall_it() -> None:
    stopped = plan(lambda o: OneCycleLR(o, 0.1, total_steps=4000), surely=3)
    assert [str(finding.severity) for finding in judge_schedule(stopped)] == ["warning"]


def test_frequency_counts_batches_within_the_epoch() -> None:
    found = schedule_interval(plan(lambda o: StepLR(o, 1), frequency=600))
    assert found is not None
    assert "never comes round in 500 batches in an epoch" in found.message
    assert schedule_interval(plan(lambda o: StepLR(o, 1, gamma=0.99), frequency=100)) is None
    accumulated = schedule_interval(plan(lambda o: StepLR(o, 1), frequency=3, accumulate=4, batches=10))
    assert accumulated is not None
    assert "every 4th" in accumulated.message


def test_a_frequency_beyond_reason_means_never() -> None:
    assert schedule_interval(plan(lambda o: StepLR(o, 1), "epoch", frequency=10**9)) is None


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_units_that_cannot_be_told_apart(batches: int) -> None:
    found = judge_schedule(plan(lambda o: CosineAnnealingLR(o, 10 * batches), "epoch", batches=batches))
    assert "LT501" not in [finding.code for finding in found]
