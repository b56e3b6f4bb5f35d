"""The learning rates of an optimizer and what its schedulers know of them, changed together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["base_rate", "rate_ratios", "scale_rates", "set_rate_aside"]

_OF_GROUPS = ("lr", "initial_lr", "max_lr", "min_lr")  # the latter two are OneCycleLR's
_OF_SCHEDULERS = ("base_lrs", "max_lrs", "_last_lr")


def base_rate(optimizer: Optimizer, schedulers: Iterable[Any] = ()) -> float:
    """The rate that a schedule multiplies, of the group in which it is largest; of a cycle, its top."""
    tops = [float(rate) for scheduler in schedulers for rate in getattr(scheduler, "max_lrs", ())]  # of CyclicLR
    return max([*_bases(optimizer), *tops])


def rate_ratios(optimizer: Optimizer) -> list[float]:
    """Each group's rate over the largest one."""
    bases = _bases(optimizer)
    return [base / max(bases) if max(bases) > 0 else 1.0 for base in bases]


def set_rate_aside(optimizer: Optimizer, rate: float, ratios: Sequence[float]) -> None:
    """Give each group its rate; a rate that is a tensor is replaced by another one."""
    for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
        known = group["lr"]
        group["lr"] = torch.full_like(known, rate * ratio) if isinstance(known, Tensor) else rate * ratio


def scale_rates(optimizer: Optimizer, schedulers: Iterable[Any], rate: float) -> None:
    """Multiply all rates so that the largest base is ``rate``; a warm-up goes on to it, groups keep their ratios.

    Absolute floors (``eta_min``, ``min_lr`` of a plateau scheduler) stay. A rate of 0 everywhere becomes ``rate``.
    """
    schedulers = list(schedulers)
    base = base_rate(optimizer, schedulers)
    for group in optimizer.param_groups:
        names = [name for name in _OF_GROUPS if name in group and (name != "min_lr" or "max_lr" in group)]
        for name in names:
            group[name] = _scaled(group[name], rate, base)
    for scheduler in schedulers:
        _scale_scheduler(scheduler, rate, base)


def _scale_scheduler(scheduler: Any, rate: float, base: float) -> None:
    for name in _OF_SCHEDULERS:
        known = getattr(scheduler, name, None)
        if isinstance(known, list):
            setattr(scheduler, name, [_scaled(value, rate, base) for value in known])
    for inner in getattr(scheduler, "_schedulers", ()):  # of SequentialLR and ChainedScheduler
        _scale_scheduler(inner, rate, base)


def _bases(optimizer: Optimizer) -> list[float]:
    return [float(group.get("max_lr", group.get("initial_lr", group["lr"]))) for group in optimizer.param_groups]


def _scaled(value: Any, rate: float, base: float) -> Any:
    if isinstance(value, Tensor):  # where a compiled or captured step reads it
        return value.mul_(rate / base) if base else value.fill_(rate)
    return value / base * rate if base else rate
