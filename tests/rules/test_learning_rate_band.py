"""LT408: bands of learning rates, and everything to which they do not apply."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tuning.rules._optimizers import Family, parameter_groups
from lightning_tuning.rules.learning_rate_band import Rate, RateCourse, learning_rate_bands


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2, 2))]


def bands(*optimizers: Any) -> list[tuple[str, float]]:
    findings = learning_rate_bands(parameter_groups(optimizers, {}))
    return [(finding.where, finding.evidence["lr"]) for finding in findings]


@pytest.mark.parametrize(
    ("optimizer", "lr", "is_odd"),
    [
        (torch.optim.Adam, 0.02, True),
        (torch.optim.AdamW, 0.01, False),
        (torch.optim.AdamW, 3e-4, False),
        (torch.optim.RAdam, 1e-6, False),
        (torch.optim.Adam, 9e-7, True),
        (torch.optim.Adam, 0.0, False),
        (torch.optim.SGD, 1.0, False),
        (torch.optim.SGD, 1.1, True),
        (torch.optim.SGD, 1e-8, False),
        (torch.optim.Adadelta, 1.0, False),
        (torch.optim.Adadelta, 0.1, False),
        (torch.optim.Adadelta, 0.01, True),
        (torch.optim.LBFGS, 1.0, False),
        (torch.optim.Rprop, 0.1, False),
        (torch.optim.RMSprop, 0.1, False),
        (torch.optim.Muon, 0.02, False),
        (torch.optim.SGD, math.inf, True),
        (torch.optim.Adam, math.nan, False),
    ],
)
def test_bands(optimizer: Any, lr: float, is_odd: bool) -> None:
    made = optimizer(weights())
    made.param_groups[0]["lr"] = lr
    assert bands(made) == ([(f"{optimizer.__name__} group 0", lr)] if is_odd else [])


class ScheduleFree(torch.optim.Optimizer):
    def __init__(self) -> None:
        super().__init__(weights(), {"lr": 1.0, "betas": (0.9, 0.99), "eps": 1e-8, "r": 0.0, "weight_lr_power": 2.0})


def test_quiet_for_rates_that_mean_something_else() -> None:
    assert bands(ScheduleFree()) == []


def test_a_base_rate_that_a_schedule_multiplies() -> None:
    optimizer = torch.optim.Adam(weights(), lr=1.0)  # "Noam": d ** -0.5 * min(step ** -0.5, step * warmup ** -1.5)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 512**-0.5 * min((step + 1) ** -0.5, (step + 1) * 1e-6))
    assert bands(optimizer) == []


def test_a_warm_up_from_nothing() -> None:
    optimizer = torch.optim.AdamW(weights(), lr=1e-4)
    torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-8)
    assert bands(optimizer) == []


def test_one_cycle_begins_low() -> None:
    optimizer = torch.optim.Adam(weights(), lr=1e-9)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=10, div_factor=1e6)
    assert bands(optimizer) == []


def test_layers_that_decay_away_are_one_optimizer() -> None:
    groups = [{"params": weights(), "lr": 1e-3 * 0.3**i} for i in range(12)]
    assert groups[-1]["lr"] < 1e-6 * 10
    assert bands(torch.optim.AdamW(groups)) == []


def test_the_highest_group_speaks() -> None:
    optimizer = torch.optim.AdamW([{"params": weights(), "lr": lr} for lr in (1e-3, 0.5, 0.1)])
    assert bands(optimizer) == [("AdamW group 1", 0.5)]


def test_each_of_several_optimizers() -> None:
    assert bands(torch.optim.Adam(weights(), lr=0.1), torch.optim.SGD(weights(), lr=2.0)) == [
        ("Adam 0 group 0", 0.1),
        ("SGD 1 group 0", 2.0),
    ]


def course_of(lrs: list[float], family: Family = "adam", horizon: int | None = 1000) -> list[str]:
    """What is said of the rates, of which there is one every twenty steps."""
    course = RateCourse(horizon)
    at = ((20 * i, [Rate("Adam group 0", 0, family, lr)]) for i, lr in enumerate(lrs))
    return [finding.message for step, rates in at for finding in course.judge(step, rates)]


COSINE = [1.5e-4 * (1 + math.cos(math.pi * i / 50)) for i in range(51)]


@pytest.mark.parametrize(
    "lrs",
    [
        [3e-4] * 50,
        COSINE,
        [1e-8, 1e-7, *[1e-4] * 48],
        [1e-8] * 50,
        [1e-4] * 40 + [0.0] * 10,
        ([1e-3] * 4 + [0.0]) * 10,
        [0.0] * 50,
        [math.nan] * 50,
        [],
    ],
    ids=["constant", "cosine", "warm-up", "low throughout", "low at the end", "cycles", "zero", "NaN", "nothing"],
)
def test_a_course_within_the_band(lrs: list[float]) -> None:
    assert course_of(lrs) == []


def test_a_rate_that_is_raised_too_high() -> None:
    assert course_of([1e-3, 5e-2, 1e-3]) == ["lr=0.05 > 0.01 at step 20, high for an optimizer of Adam's family"]
    assert course_of([1e-3, 5e-2], "sgd") == course_of([1e-3, 5e-2], "other") == []
    assert course_of([1e-3, 5.0], "sgd") == ["lr=5 > 1 at step 20, high for SGD"]
    assert course_of([1e-3, math.inf], "sgd") == ["lr=inf > 1 at step 20, high for SGD"]


def test_a_rate_that_is_cut_long_before_the_end() -> None:
    cut = [1e-3] * 10 + [1e-9] * 40
    said = course_of(cut)
    assert said[0] == "lr=1e-09 < 1e-06 since step 200, low for an optimizer of Adam's family; it was 0.001"
    assert len(said) == 40 - 5
    assert len(course_of(cut, horizon=None)) == 40 - 10
    assert course_of(cut, "sgd") == []


def test_another_group_may_be_within_the_band() -> None:
    course = RateCourse(1000)
    for step in range(0, 1000, 20):
        low = 1e-3 if step < 100 else 1e-9
        rates = [Rate("Adam group 0", 0, "adam", low), Rate("Adam group 1", 0, "adam", 1e-3)]
        assert course.judge(step, rates) == []


def test_the_state_of_a_course_survives() -> None:
    course, other = RateCourse(1000), RateCourse(1000)
    low = [Rate("Adam group 0", 0, "adam", 1e-9)]
    course.judge(0, [Rate("Adam group 0", 0, "adam", 1e-3)])
    course.judge(100, low)
    other.load_state_dict(course.state_dict())
    assert other.judge(200, low) == course.judge(200, low) != []
