"""What the learning rates of a run will be, by stepping a copy of its scheduler."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch.optim.lr_scheduler import (
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from lightning_tuning.rules._schedule_copy import CannotCopyError, paper_copy
from lightning_tuning.trace.rng import RngState

__all__ = ["MOST_STEPS", "Curve", "curve_of"]

MOST_STEPS = 20_000
"""Steps that are taken on paper one by one at most, times the parameter groups: some 150 ms."""

_SAMPLES = 1_000
"""Points of a curve that can be looked at anywhere; a run's thousandth is finer than any rule asks."""


@dataclass(frozen=True)
class Curve:
    """The learning rates of each parameter group over the ticks of a scheduler.

    Attributes:
        ticks: at which the rates are known, ascending; the first one is 0 (before any step), the last one the run's
            last.
        rates: at each of them, one per parameter group.
        refusal: what the scheduler raised, if it did before the last tick.
        refused_at: the tick at which it did.
    """

    ticks: Sequence[int]
    rates: Sequence[Sequence[float]]
    refusal: str = ""
    refused_at: int | None = None

    @cached_property
    def groups(self) -> list[list[float]]:
        """The rates of each parameter group that is trained at all."""
        return [list(group) for group in zip(*self.rates, strict=True) if max(group) > 0]

    def until(self, tick: int) -> Curve:
        """The part up to ``tick``."""
        count = max(1, bisect_right(self.ticks, tick))
        return Curve(self.ticks[:count], self.rates[:count])


def curve_of(scheduler: LRScheduler, ticks: int) -> Curve:
    """The learning rates over the next ``ticks`` steps of ``scheduler``, which stays where it is.

    Schedules that are a formula of the step count are looked at in :data:`_SAMPLES` places, any others are stepped
    through. Draws from no random number generator and reads the values of no tensor but learning rates.

    Args:
        scheduler: as it stands now.
        ticks: how often it will be stepped.

    Raises:
        CannotCopyError: if it cannot be copied, fails at its first step, or would have to be stepped more than
            :data:`MOST_STEPS` times.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> curve = curve_of(torch.optim.lr_scheduler.StepLR(optimizer, step_size=2), 4)
        >>> [round(rate, 4) for rate in curve.groups[0]]
        [0.1, 0.1, 0.01, 0.01, 0.001]
        >>> optimizer.param_groups[0]["lr"]
        0.1
    """
    random = RngState.capture()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the scheduler's own, about the order of steps
            return _curve(scheduler, ticks)
    finally:
        random.restore()


def _curve(scheduler: LRScheduler, ticks: int) -> Curve:
    copied = paper_copy(scheduler)
    now = _rates(copied)
    formula = _formula(copied)
    start = getattr(copied, "last_epoch", 0)
    if formula is not None and _agree(formula(start), now):
        points = _sampled(ticks, max(100, _SAMPLES // len(now)))
        return _walk(points, now, lambda tick: formula(start + tick))
    if ticks * len(now) > MOST_STEPS:
        raise CannotCopyError(f"its {ticks} steps depend on each other, too many to try")

    def step(_: int) -> list[float]:
        copied.step()
        return _rates(copied)

    return _walk(range(ticks + 1), now, step)


def _walk(points: Sequence[int], now: list[float], rates_at: Callable[[int], list[float]]) -> Curve:
    rates = [now]
    for tick in points[1:]:
        try:
            rates.append(rates_at(tick))
        except Exception as error:
            if len(rates) == 1:
                raise CannotCopyError(f"its copy cannot be stepped ({type(error).__name__}: {error})") from error
            return Curve(points[: len(rates)], rates, f"{type(error).__name__}: {error}", tick)
    return Curve(points, rates)


def _sampled(ticks: int, count: int) -> list[int]:
    """0 to ``ticks``, each one if they are few; else spread evenly, and dense at the start, where warm-ups are."""
    if ticks <= count:
        return list(range(ticks + 1))
    dense = count // 5
    return sorted({*range(dense), *(round(i * ticks / count) for i in range(count + 1)), ticks - 1, ticks})


def _rates(scheduler: LRScheduler) -> list[float]:
    return [float(group["lr"]) for group in scheduler.optimizer.param_groups]


def _agree(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(abs(x - y) <= 1e-6 * max(abs(x), abs(y), 1e-12) for x, y in zip(a, b, strict=True))


def _formula(scheduler: Any) -> Callable[[int], list[float]] | None:
    """The rates after so many steps, where they do not depend on the rates before."""
    kind = type(scheduler)
    if isinstance(scheduler, SequentialLR) and kind.step is SequentialLR.step:
        formulas = [_formula(part) for part in scheduler._schedulers]
        known = [formula for formula in formulas if formula is not None]
        milestones = list(scheduler._milestones)
        return _joined(known, milestones) if len(known) == len(formulas) else None
    if kind.step is CosineAnnealingWarmRestarts.step and kind.get_lr is CosineAnnealingWarmRestarts.get_lr:
        return lambda tick: _stepped_to(scheduler, tick)
    if kind.step is not LRScheduler.step:
        return None
    if any(kind.get_lr is base.get_lr for base in (LambdaLR, OneCycleLR, CyclicLR)):
        return lambda tick: _at(scheduler, tick, scheduler.get_lr)
    if kind.__module__ == LRScheduler.__module__ and hasattr(kind, "_get_closed_form_lr"):
        return lambda tick: _at(scheduler, tick, scheduler._get_closed_form_lr)
    return None


def _joined(
    formulas: Sequence[Callable[[int], list[float]]], milestones: Sequence[int]
) -> Callable[[int], list[float]]:
    def rates(tick: int) -> list[float]:
        index = bisect_right(milestones, tick)
        return formulas[index](tick - (milestones[index - 1] if index else 0))

    return rates


def _at(scheduler: Any, tick: int, values: Callable[[], Sequence[Any]]) -> list[float]:
    scheduler.last_epoch = tick
    return [float(value) for value in values()]


def _stepped_to(scheduler: Any, tick: int) -> list[float]:
    scheduler.step(tick)
    return _rates(scheduler)
