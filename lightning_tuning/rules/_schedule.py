"""What the schedule rules are asked about: one scheduler, how often it will be stepped, and the rates that gives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from lightning_tuning.measure.horizon import Horizon
from lightning_tuning.rules._schedule_curve import Curve, curve_of

__all__ = ["Horizon", "Plan", "Span", "peak_of", "percent"]


@dataclass(frozen=True)
class Span:
    """A scheduler that is not put together from others, and the ticks that it is given.

    Attributes:
        scheduler: see above.
        ticks: how often it is stepped in this run.
        is_last: nothing comes after it but the run's end.
    """

    scheduler: Any
    ticks: int
    is_last: bool

    @property
    def length(self) -> tuple[str, int] | None:
        """The length that was declared for it, and the name of that argument."""
        for kind, name in _LENGTHS.items():
            if isinstance(self.scheduler, kind):
                return name, int(getattr(self.scheduler, name))
        return None

    @property
    def first_milestone(self) -> int | None:
        """The tick at which a scheduler of steps first lowers the rate."""
        if isinstance(self.scheduler, StepLR):
            return int(self.scheduler.step_size) if self.scheduler.gamma < 1 else None
        if isinstance(self.scheduler, MultiStepLR) and self.scheduler.milestones and self.scheduler.gamma < 1:
            return int(min(self.scheduler.milestones))
        return None

    @property
    def last_milestone(self) -> int | None:
        """The tick at which a ``MultiStepLR`` lowers the rate for the last time."""
        if isinstance(self.scheduler, MultiStepLR) and self.first_milestone is not None:
            return int(max(self.scheduler.milestones))
        return None

    @property
    def falls(self) -> bool:
        """Whether it lowers the rate over its declared length."""
        if isinstance(self.scheduler, LinearLR):
            return bool(self.scheduler.end_factor < 0.5 * self.scheduler.start_factor)
        return isinstance(self.scheduler, CosineAnnealingLR | OneCycleLR | PolynomialLR)


_LENGTHS: dict[type, str] = {
    CosineAnnealingLR: "T_max",
    OneCycleLR: "total_steps",
    PolynomialLR: "total_iters",
    LinearLR: "total_iters",
}


@dataclass(frozen=True)
class Plan:
    """A scheduler and what a run will do with it.

    Attributes:
        scheduler: as it stands before the first step.
        where: how it is called in findings.
        interval: ``"epoch"`` or ``"step"``.
        frequency: see :meth:`Horizon.ticks`.
        horizon: of the run; its length in ticks of this scheduler is known.
    """

    scheduler: LRScheduler
    where: str
    interval: str
    frequency: int
    horizon: Horizon

    @cached_property
    def ticks(self) -> int:
        """How often it is stepped at most."""
        return self.horizon.ticks(self.interval, self.frequency) or 0

    @cached_property
    def certain_ticks(self) -> int:
        """How often it is stepped even if early stopping acts as soon as it can."""
        return min(self.ticks, self.horizon.certain.ticks(self.interval, self.frequency) or 0)

    @cached_property
    def curve(self) -> Curve:
        """The rates of the whole run."""
        return self.longer(self.ticks)

    @cached_property
    def certain_curve(self) -> Curve:
        """The rates of the part that takes place whatever happens."""
        return self.curve if self.certain_ticks == self.ticks else self.curve.until(self.certain_ticks)

    def longer(self, ticks: int) -> Curve:
        """The rates if it were stepped ``ticks`` times."""
        return curve_of(self.scheduler, ticks)

    def spans(self, ticks: int) -> list[Span]:
        """What of the scheduler is stepped how often, in ``ticks`` ticks."""
        return list(_spans(self.scheduler, ticks, is_last=True))


def _spans(scheduler: Any, ticks: int, *, is_last: bool) -> Iterator[Span]:
    if isinstance(scheduler, SequentialLR):
        begins = [0, *scheduler._milestones]
        ends = [*scheduler._milestones, math.inf]
        for part, begin, end in zip(scheduler._schedulers, begins, ends, strict=True):
            if begin <= ticks:
                yield from _spans(part, int(min(end, ticks)) - begin, is_last=is_last and end >= ticks)
    elif isinstance(scheduler, ChainedScheduler):
        for part in scheduler._schedulers:
            yield from _spans(part, ticks, is_last=is_last)
    else:
        yield Span(scheduler, ticks, is_last)


def peak_of(group: Sequence[float]) -> tuple[int, float]:
    """Where the rate is first within 1 % of its highest, and the highest."""
    peak = max(group)
    return next(i for i, rate in enumerate(group) if rate >= 0.99 * peak), peak


def percent(part: float, whole: float) -> str:
    """``"8.5 %"``."""
    value = 100 * part / whole
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"
