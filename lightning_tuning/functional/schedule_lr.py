"""A learning rate schedule by its name, as long as the run, with a linear warm-up before it."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import ConstantLR, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

__all__ = ["check_schedule_arguments", "schedule_lr_config", "scheduler_factory"]

Factory = Callable[..., Any]

LENGTH = {
    "CosineAnnealingLR": "T_max",
    "LinearLR": "total_iters",
    "OneCycleLR": "total_steps",
    "PolynomialLR": "total_iters",
}
"""The argument that says how long a schedule is, of those that are meant to last as long as the run."""

_WARM_BY_THEMSELVES = ("OneCycleLR", "CyclicLR")


def schedule_lr_config(
    optimizer: Optimizer,
    scheduler: str | Factory | None = None,
    arguments: Mapping[str, Any] | None = None,
    *,
    ticks: int | None = None,
    warmup: float = 0,
    warmup_start: float = 0.01,
    interval: str = "step",
    frequency: int = 1,
    monitor: str | None = None,
    name: str | None = None,
    behind: LRScheduler | None = None,
) -> dict[str, Any]:
    """A scheduler of ``optimizer`` as the ``"lr_scheduler"`` entry that Lightning understands.

    Args:
        optimizer: whose rates are scheduled.
        scheduler: a class of ``torch.optim.lr_scheduler``, its name, the dotted path of another, or a function that
            makes one of the optimizer; ``None``: the rates stay as they are, after the warm-up.
        arguments: of the scheduler, besides the optimizer. Where they say nothing of its length (``T_max``,
            ``total_steps``, ``total_iters``), it is what ``ticks`` leaves after the warm-up; ``max_lr`` of OneCycleLR
            is by default each group's own rate.
        ticks: steps of the scheduler in the whole run; ``None``: unknown.
        warmup: steps of the scheduler over which the rate rises linearly to the optimizer's own; below 1 a fraction of
            ``ticks``. Default 0. The rise is torch's ``LinearLR``, joined to what follows by ``SequentialLR``.
        warmup_start: the first rate, as a factor on the optimizer's own. Default .01: nearly nothing, where 0 would
            waste the first step.
        interval: ``"step"`` or ``"epoch"``.
        frequency: optimizer steps, or epochs, per step of the scheduler.
        monitor: name of the metric that the scheduler is stepped with, if it wants one.
        name: under which ``LearningRateMonitor`` logs it. Default: Lightning's own.
        behind: instead of ``scheduler``: one that is there already, and gets a warm-up before it.

    Raises:
        ValueError: for arguments outside of what is said above, and where a length is needed and not known.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> config = schedule_lr_config(optimizer, "CosineAnnealingLR", ticks=6, warmup=2, warmup_start=0.5)
        >>> rates = []
        >>> for _ in range(6):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
        ...     optimizer.step()
        ...     config["scheduler"].step()
        >>> rates
        [0.5, 0.75, 1.0, 0.854, 0.5, 0.146]

    Source:
        Goyal et al. 2017, Accurate, large minibatch SGD, section 2.2 (linear warm-up); Loshchilov & Hutter 2017, SGDR
        (cosine); Smith & Topin 2019, Super-convergence (one cycle).
    """
    given = {} if arguments is None else arguments
    check_schedule_arguments(
        scheduler, given, interval=interval, frequency=frequency, monitor=monitor, warmup=warmup,
        warmup_start=warmup_start, name=name,
    )  # fmt: skip
    rise = _warmup_ticks(warmup, ticks)
    main = behind
    if scheduler is not None:
        factory = scheduler_factory(scheduler)
        main = factory(
            optimizer, **_completed(factory, dict(given), optimizer, None if ticks is None else ticks - rise)
        )
    scheduled = _warmed(optimizer, main, rise, warmup_start)
    config = {"scheduler": scheduled, "interval": interval, "frequency": frequency}
    if name is not None:
        config["name"] = name
    if monitor is not None:
        config |= {"monitor": monitor, "strict": True, "reduce_on_plateau": True}
    elif isinstance(main, ReduceLROnPlateau):
        raise ValueError(
            "`monitor` must be the name of the metric that ReduceLROnPlateau watches, got None. "
            "(PlateauLR does the same, and resumes exactly.)"
        )
    return config


def scheduler_factory(scheduler: str | Factory) -> Factory:
    """The class, or function, that ``scheduler`` names.

    Raises:
        ValueError: if there is none of that name.

    Example:
        >>> scheduler_factory("StepLR").__name__
        'StepLR'
        >>> scheduler_factory("StepLr")
        Traceback (most recent call last):
        ...
        ValueError: `scheduler` must be a class of torch.optim.lr_scheduler or a dotted path, got 'StepLr'. Did you mean 'StepLR'?
    """  # noqa: E501  # the message is one line
    if not isinstance(scheduler, str):
        return scheduler
    module, _, attribute = scheduler.rpartition(".")
    try:
        found = getattr(importlib.import_module(module) if module else lr_scheduler, attribute)
    except (ImportError, AttributeError):
        near = difflib.get_close_matches(scheduler, lr_scheduler.__all__, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`scheduler` must be a class of torch.optim.lr_scheduler or a dotted path, got {scheduler!r}.{hint}"
        ) from None
    factory: Factory = found
    return factory


def check_schedule_arguments(
    scheduler: Any,
    arguments: Any,
    *,
    interval: Any,
    frequency: Any,
    monitor: Any,
    warmup: Any,
    warmup_start: Any,
    name: Any,
) -> None:
    """Refuse what :func:`schedule_lr_config` cannot use, before there is an optimizer.

    Raises:
        ValueError: naming the argument, the value got and what is allowed.
    """
    if scheduler is not None and not isinstance(scheduler, str) and not callable(scheduler):
        raise ValueError(f"`scheduler` must be a class, a name, a function or None, got {scheduler!r}.")
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        raise ValueError(f"`arguments` must be a dict of names and values, got {arguments!r}.")
    if arguments and scheduler is None:
        raise ValueError(f"`arguments` must be empty without a `scheduler`, got {dict(arguments)!r}.")
    if interval not in ("step", "epoch"):
        raise ValueError(f"`interval` must be 'step' or 'epoch', got {interval!r}.")
    if not isinstance(frequency, int) or isinstance(frequency, bool) or frequency < 1:
        raise ValueError(f"`frequency` must be an integer of at least 1, got {frequency!r}.")
    is_number = isinstance(warmup, int | float) and not isinstance(warmup, bool) and math.isfinite(warmup)
    if not is_number or warmup < 0 or (warmup >= 1 and warmup != int(warmup)):
        raise ValueError(f"`warmup` must be a number of steps, or a fraction of the run below 1, got {warmup!r}.")
    if not isinstance(warmup_start, int | float) or isinstance(warmup_start, bool) or not 0 < warmup_start <= 1:
        raise ValueError(f"`warmup_start` must be above 0 and at most 1, got {warmup_start!r}.")
    for label, text in (("monitor", monitor), ("name", name)):
        if text is not None and (not isinstance(text, str) or not text):
            raise ValueError(f"`{label}` must be a name or None, got {text!r}.")
    if scheduler is None:
        return
    called = getattr(scheduler_factory(scheduler), "__name__", "")
    if warmup and called in _WARM_BY_THEMSELVES:
        raise ValueError(f"`warmup` must be 0 with {called}, which rises by itself (`pct_start`), got {warmup!r}.")
    if warmup and monitor is not None:
        raise ValueError(f"`warmup` must be 0 with a `monitor`: SequentialLR hands no metric on, got {warmup!r}.")


def _warmup_ticks(warmup: float, ticks: int | None) -> int:
    if warmup >= 1 or not warmup:
        return int(warmup)
    if ticks is None:
        raise ValueError(f"`warmup` must be a number of steps where the length of the run is not known, got {warmup}.")
    return max(1, round(warmup * ticks))


def _completed(factory: Factory, given: dict[str, Any], optimizer: Optimizer, left: int | None) -> dict[str, Any]:
    """The arguments with the length of the schedule, where only the run knows it."""
    called = getattr(factory, "__name__", "")
    if called == "OneCycleLR":
        given.setdefault("max_lr", [float(group["lr"]) for group in optimizer.param_groups])
        if {"epochs", "steps_per_epoch"} <= given.keys():
            return given
    length = LENGTH.get(called)
    if length is None or length in given or length not in inspect.signature(factory).parameters:
        return given
    if left is None:
        raise ValueError(
            f"`arguments` must say {length!r} of {called}: how long the run will be is not known "
            "(`max_epochs` or `max_steps`, and the number of batches)."
        )
    return {**given, length: max(1, left)}


def _warmed(optimizer: Optimizer, main: Any, rise: int, start: float) -> Any:
    if not rise:
        return main if main is not None else ConstantLR(optimizer, factor=1.0)
    if isinstance(main, ReduceLROnPlateau):
        raise ValueError("`warmup` must be 0 before ReduceLROnPlateau: SequentialLR hands no metric on.")
    warm = LinearLR(optimizer, start_factor=start, total_iters=rise)
    return warm if main is None else SequentialLR(optimizer, [warm, main], milestones=[rise])
