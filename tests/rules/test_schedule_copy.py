"""Schedules on paper: the real scheduler, its optimizer and its functions stay where they are."""

from __future__ import annotations

import copy
import functools
import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from lightning_tuning.rules._schedule_copy import CannotCopyError, paper_copy
from lightning_tuning.rules._schedule_curve import MOST_STEPS, curve_of
from lightning_tuning.trace import RngState
from tests.rules.schedules import optimizer


class Counting:
    """A factor that falls at every call."""

    def __init__(self) -> None:
        self.calls = 0
        self.seen: list[int] = []

    def __call__(self, step: int) -> float:
        self.calls += 1
        self.seen.append(step)
        return 0.9**self.calls

    def method(self, step: int) -> float:
        return self(step)


class Holder(nn.Module):
    """A module whose method is the schedule, and which writes on itself; its weights are not to be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.last = 0
        self.history: list[int] = []

    def factor(self, step: int) -> float:
        self.last = step
        self.history.append(step)
        self.log("factor", 0.9**step)
        return 0.9**step

    def log(self, name: str, value: float) -> None:
        raise AssertionError("not to be called on paper")

    def __deepcopy__(self, memo: Any) -> None:
        raise AssertionError("not to be copied")


class InverseRoot(LRScheduler):
    """A user's own, in closed form."""

    def get_lr(self) -> list[Any]:
        return [base / (1 + self.last_epoch) ** 0.5 for base in self.base_lrs]


class Halving(LRScheduler):
    """A user's own, each rate from the one before."""

    def get_lr(self) -> list[Any]:
        return [group["lr"] * (0.5 if self.last_epoch else 1.0) for group in self.optimizer.param_groups]


KINDS: dict[str, Any] = {
    "lambda": lambda o: LambdaLR(o, lambda step: 1 / (1 + step)),
    "multiplicative": lambda o: MultiplicativeLR(o, lambda step: 0.99),
    "step": lambda o: StepLR(o, 700),
    "milestones": lambda o: MultiStepLR(o, [500, 500, 2000]),
    "linear": lambda o: LinearLR(o, 0.1, 0.9, total_iters=1500),
    "exponential": lambda o: ExponentialLR(o, 0.999),
    "polynomial": lambda o: PolynomialLR(o, 2000, 2.0),
    "cosine": lambda o: CosineAnnealingLR(o, 700, eta_min=1e-3),
    "restarts": lambda o: CosineAnnealingWarmRestarts(o, 300, T_mult=2),
    "cyclic": lambda o: CyclicLR(o, 1e-3, 0.1, step_size_up=300, mode="exp_range", gamma=0.999),
    "cyclic by hand": lambda o: CyclicLR(o, 1e-3, 0.1, scale_fn=lambda x: 0.5**x),
    "one cycle": lambda o: OneCycleLR(o, 0.1, total_steps=3000),
    "sequential": lambda o: SequentialLR(
        o, [LinearLR(o, 0.1, total_iters=100), CosineAnnealingLR(o, 900), StepLR(o, 300)], milestones=[100, 1000]
    ),
    "sequential with restarts": lambda o: SequentialLR(
        o, [LinearLR(o, 0.1, total_iters=100), CosineAnnealingWarmRestarts(o, 300)], milestones=[100]
    ),
    "chained": lambda o: ChainedScheduler([LinearLR(o, 0.1, total_iters=5), ExponentialLR(o, 0.999)]),
    "own, closed form": InverseRoot,
    "own, recursive": Halving,
}


def state(o: Optimizer) -> Any:
    return copy.deepcopy([{k: v for k, v in group.items() if k != "params"} for group in o.param_groups])


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_is_what_the_scheduler_does(kind: str) -> None:
    real = optimizer(groups=2)
    real.param_groups[1]["lr"] = 0.01
    scheduler = KINDS[kind](real)
    before, counts, generators = state(real), dict(vars(scheduler)), RngState.capture()
    curve = curve_of(scheduler, 3000)
    assert state(real) == before
    assert {k: v for k, v in vars(scheduler).items() if k != "optimizer"} == {
        k: v for k, v in counts.items() if k != "optimizer"
    }
    assert RngState.capture() == generators
    assert curve.ticks[0] == 0
    assert curve.ticks[-1] == 3000
    assert curve.refused_at is None
    rates = [[group["lr"] for group in real.param_groups]]
    real.step()
    for _ in range(3000):
        scheduler.step()
        rates.append([group["lr"] for group in real.param_groups])
    for tick, got in zip(curve.ticks, curve.rates, strict=True):
        assert got == pytest.approx(rates[tick], rel=1e-9, abs=1e-15), tick


def test_a_function_that_counts_its_calls_is_not_advanced() -> None:
    counting = Counting()
    for factor in (counting, counting.method, functools.partial(counting.__call__)):
        scheduler = LambdaLR(optimizer(), factor)
        calls, seen = counting.calls, list(counting.seen)
        assert curve_of(scheduler, 5).rates[-1][0] < 0.1
        assert (counting.calls, counting.seen) == (calls, seen)


def test_a_closure_that_counts_its_calls_is_not_advanced() -> None:
    calls, shared = 0, [0]

    def factor(step: int, kept: list[int] = []) -> float:  # noqa: B006  # the point
        nonlocal calls
        calls += 1
        shared.append(step)
        kept.append(step)
        return 0.9**calls

    def recursive(step: int) -> float:
        return 1.0 if step == 0 else 0.9 * recursive(step - 1)

    scheduler = LambdaLR(optimizer(), factor)
    before = calls, list(shared), list(factor.__defaults__[0])
    curve_of(scheduler, 5)
    assert (calls, shared, factor.__defaults__[0]) == before
    assert curve_of(LambdaLR(optimizer(), recursive), 3).rates[-1][0] == pytest.approx(0.0729)


def test_a_module_in_reach_is_replaced_by_a_stand_in() -> None:
    holder = Holder()
    holder.__dict__["log"] = lambda *_: None
    for factor in (holder.factor, lambda step: 1.0 * holder.factor(step)):
        scheduler = LambdaLR(optimizer(), factor)
        last, history = holder.last, list(holder.history)
        assert curve_of(scheduler, 3).rates[-1][0] == pytest.approx(0.0729)
        assert (holder.last, holder.history) == (last, history)


def test_a_function_that_draws_random_numbers_draws_none() -> None:
    scheduler = LambdaLR(optimizer(), lambda step: random.random() + np.random.rand() + float(torch.rand(())))
    before = RngState.capture()
    curve_of(scheduler, 10)
    assert RngState.capture() == before


@pytest.mark.parametrize("draws", [itertools.count(), (i for i in range(100))])
def test_an_iterator_cannot_be_put_back(draws: Any) -> None:
    scheduler = LambdaLR(optimizer(), lambda step: 1.0)
    scheduler.lr_lambdas = [lambda step: next(draws)]
    with pytest.raises(CannotCopyError, match="draws from a"):
        paper_copy(scheduler)


COUNT = 0


def global_counter(step: int) -> float:
    global COUNT  # noqa: PLW0603  # the point
    COUNT += 1
    return 1.0


def test_a_function_that_writes_a_global_is_refused() -> None:
    scheduler = LambdaLR(optimizer(), global_counter)
    before = COUNT
    with pytest.raises(CannotCopyError, match="writes a global"):
        curve_of(scheduler, 5)
    assert before == COUNT


def test_a_scheduler_that_refuses_to_be_stepped() -> None:
    with pytest.raises(CannotCopyError, match="cannot be stepped"):
        curve_of(ReduceLROnPlateau(optimizer()), 3)


def test_too_many_steps_that_hang_on_each_other() -> None:
    with pytest.raises(CannotCopyError, match="too many"):
        curve_of(Halving(optimizer()), MOST_STEPS + 1)
    assert curve_of(StepLR(optimizer(), 10**6), 10**7).ticks[-1] == 10**7


def test_a_scheduler_that_raises_on_its_way() -> None:
    def factor(step: int) -> float:
        return [1.0, 0.9, 0.8][step]

    curve = curve_of(LambdaLR(optimizer(), factor), 10)
    assert (curve.refused_at, len(curve.rates)) == (3, 3)
    assert "IndexError" in curve.refusal


def test_rates_that_are_tensors() -> None:
    real = AdamW([torch.zeros(1, requires_grad=True)], lr=torch.tensor(0.1), capturable=False, foreach=False)
    scheduler = CosineAnnealingLR(real, 10)
    assert curve_of(scheduler, 5).rates[-1][0] == pytest.approx(0.05)
    assert float(real.param_groups[0]["lr"]) == pytest.approx(0.1)


def test_a_scheduler_in_the_middle_of_its_way() -> None:
    real = optimizer()
    scheduler = CosineAnnealingLR(real, 10)
    real.step()
    for _ in range(4):
        scheduler.step()
    assert curve_of(scheduler, 6).rates[-1][0] == pytest.approx(0.0)


def test_frozen_groups_are_left_out() -> None:
    real = optimizer(groups=2)
    real.param_groups[0]["lr"] = 0.0
    curve = curve_of(StepLR(real, 1), 2)
    assert len(curve.groups) == 1
    assert curve.until(1).ticks == [0, 1]
