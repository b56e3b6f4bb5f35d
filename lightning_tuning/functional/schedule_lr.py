"""Any torch scheduler as Lightning's configuration: its length filled in, a linear warm-up before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from lightning_tuning.functional._numbers import is_number
from lightning_tuning.functional._scheduler_factory import (
    MakeScheduler,
    build_scheduler,
    check_fit,
    is_one_cycle,
    length_argument,
    resolve_scheduler,
)

__all__ = [
    "check_schedule_arguments",
    "length_argument",
    "resolve_scheduler",
    "schedule_lr_config",
    "warm_up",
    "warm_up_before",
    "warm_up_ticks",
]


def schedule_lr_config(
    optimizer: Optimizer,
    scheduler: str | MakeScheduler | None,
    arguments: Mapping[str, Any] | None = None,
    *,
    ticks: int | None = None,
    warmup: float = 0,
    warmup_start: float | None = None,
    interval: str = "step",
    frequency: int = 1,
    name: str | None = None,
) -> dict[str, Any]:
    """A scheduler on ``optimizer`` as the ``"lr_scheduler"`` entry that Lightning understands.

    A tick is one call of ``scheduler.step()``: an optimizer step or an epoch, as ``interval`` says, or every
    ``frequency``-th one.

    Args:
        optimizer: whose rates are scheduled.
        scheduler: a class of ``torch.optim.lr_scheduler`` or its name, a dotted path to another class or to a function
            ``f(optimizer, **arguments)`` that makes a scheduler, or such a function itself. ``None``: a warm-up alone.
        arguments: of the scheduler, without the optimizer. What says how long it is (``T_max`` of
            ``CosineAnnealingLR``, ``total_steps`` of ``OneCycleLR``, ``total_iters`` of ``PolynomialLR`` and
            ``LinearLR``, any ``num_training_steps``) is ``ticks`` less the warm-up unless given, and ``max_lr`` of
            ``OneCycleLR`` the optimizer's own rates. ``lr_lambda`` may be a dotted path, or one per parameter group.
        ticks: in the run. ``None`` (default): not known, so that the length must be among the ``arguments``.
        warmup: ticks of a linear warm-up before the scheduler, or a fraction of ``ticks`` between 0 and 1. Default 0.
        warmup_start: the rate at the first tick, as a factor, above 0. Default ``None``: ``1 / (warmup + 1)``, the
            straight line that begins one tick earlier at zero, so that no tick is wasted however long the warm-up is.
        interval: ``"step"`` (default, in which warm-ups are counted) or ``"epoch"``.
        frequency: intervals per tick. Default 1.
        name: under which ``LearningRateMonitor`` logs the rate. Default: its own.

    Returns:
        A dict for ``{"optimizer": optimizer, "lr_scheduler": ...}`` in ``configure_optimizers``.

    Raises:
        ValueError: for an argument outside of what is said above; if a length is needed and not known; for
            ``ReduceLROnPlateau``, which waits for a metric (``functional.plateau_lr`` has it); for a warm-up before
            ``OneCycleLR``, which has one.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> config = schedule_lr_config(optimizer, "CosineAnnealingLR", ticks=12, warmup=3)
        >>> rates = []
        >>> for _ in range(5):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 4))
        ...     optimizer.step()
        ...     config["scheduler"].step()
        >>> rates
        [0.025, 0.05, 0.075, 0.1, 0.097]
        >>> config["interval"], config["frequency"]
        ('step', 1)

    Source: the warm-up: Goyal et al. 2017, Accurate, large minibatch SGD, section 2.2.
    """
    given = check_schedule_arguments(
        scheduler, arguments, warmup=warmup, warmup_start=warmup_start, interval=interval, frequency=frequency
    )
    length = warm_up_ticks(warmup, ticks)
    if scheduler is None:
        built: LRScheduler = warm_up(optimizer, length, warmup_start)
    else:
        left = None if ticks is None else max(1, ticks - length)
        built = build_scheduler(optimizer, resolve_scheduler(scheduler), given, left)
        if length:
            built = warm_up_before(built, length, warmup_start)
    config: dict[str, Any] = {"scheduler": built, "interval": interval, "frequency": frequency}
    return config if name is None else {**config, "name": name}


def warm_up(optimizer: Optimizer, length: int, start: float | None = None) -> LinearLR:
    """A linear climb to the optimizer's own rates in ``length`` ticks, from ``start`` (a factor; see above)."""
    return LinearLR(
        optimizer, start_factor=1 / (length + 1) if start is None else start, end_factor=1.0, total_iters=length
    )


def warm_up_before(scheduler: LRScheduler, length: int, start: float | None = None) -> SequentialLR:
    """``scheduler``, fresh from its constructor, from tick ``length`` on, and a linear warm-up until then.

    Raises:
        ValueError: for a scheduler that cannot come second in a ``SequentialLR``, or warms up by itself.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> both = warm_up_before(torch.optim.lr_scheduler.StepLR(optimizer, step_size=1), 1)
        >>> rates = []
        >>> for _ in range(4):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 4))
        ...     optimizer.step()
        ...     both.step()
        >>> rates
        [0.5, 1.0, 0.1, 0.01]
    """
    # torch begins a part with `_update_lr(0)`, which a SequentialLR among them does not have: its parts are taken.
    parts, milestones = [scheduler], []
    if isinstance(scheduler, SequentialLR):
        parts, milestones = list(scheduler._schedulers), list(scheduler._milestones)
    if isinstance(parts[0], OneCycleLR):
        raise ValueError("`warmup` must be 0 with OneCycleLR, which warms up by itself: give its `pct_start`.")
    if isinstance(parts[0], ChainedScheduler | ReduceLROnPlateau):
        raise ValueError(
            f"`warmup` must be 0 with {type(parts[0]).__name__}, which torch's SequentialLR cannot begin later."
        )
    begin = length if _knows_its_beginning(parts[0]) else length + 1
    later = [begin + milestone for milestone in milestones]
    optimizer = scheduler.optimizer
    return SequentialLR(optimizer, [warm_up(optimizer, length, start), *parts], [begin, *later])


def _knows_its_beginning(scheduler: LRScheduler) -> bool:
    """Whether its first rate follows from the initial one alone.

    Any other takes the rate that it finds, and torch does not step the warm-up at the tick where the next part begins:
    it would start from the last rate but one. One tick more lets the warm-up arrive first.
    """
    absolute = (LambdaLR, CyclicLR, CosineAnnealingWarmRestarts)
    return hasattr(scheduler, "_get_closed_form_lr") or isinstance(scheduler, absolute)


def warm_up_ticks(warmup: float, ticks: int | None) -> int:
    """The ticks of a warm-up that may be given as a fraction of ``ticks``.

    Example:
        >>> warm_up_ticks(0.05, 200), warm_up_ticks(7, None)
        (10, 7)
    """
    if isinstance(warmup, int):
        return warmup
    if warmup == 0:
        return 0
    if ticks is None:
        raise ValueError(
            f"`warmup` must be a number of ticks where the length of the run is not known, got {warmup!r}."
        )
    return max(1, round(warmup * ticks))


def check_schedule_arguments(
    scheduler: Any, arguments: Any, *, warmup: Any, warmup_start: Any, interval: Any, frequency: Any
) -> dict[str, Any]:
    """Refuse what :func:`schedule_lr_config` cannot use, before there is an optimizer; gives its ``arguments``.

    Raises:
        ValueError: naming the argument, the value got and what is allowed.
    """
    is_count = isinstance(warmup, int) and not isinstance(warmup, bool) and warmup >= 0
    if not is_count and not (isinstance(warmup, float) and 0 <= warmup < 1):
        raise ValueError(f"`warmup` must be an integer of at least 0, or a fraction below 1, got {warmup!r}.")
    if warmup_start is not None and not (is_number(warmup_start) and 0 < warmup_start <= 1):
        raise ValueError(f"`warmup_start` must be None, or above 0 and at most 1, got {warmup_start!r}.")
    if interval not in ("step", "epoch"):
        raise ValueError(f"`interval` must be 'step' or 'epoch', got {interval!r}.")
    if not isinstance(frequency, int) or isinstance(frequency, bool) or frequency < 1:
        raise ValueError(f"`frequency` must be an integer of at least 1, got {frequency!r}.")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise ValueError(f"`arguments` must be None or a dict, got {arguments!r}.")
    given = {name: value for name, value in (arguments or {}).items() if value is not None}
    if scheduler is None:
        if given or not warmup:
            raise ValueError(
                f"`scheduler` must be given, unless it is for a warm-up alone (`warmup` above 0, no `arguments`), got "
                f"None with warmup={warmup!r}."
            )
        return given
    check_fit(resolve_scheduler(scheduler), given)
    if warmup and is_one_cycle(resolve_scheduler(scheduler)):
        raise ValueError(f"`warmup` must be 0 with OneCycleLR, which warms up by itself (`pct_start`), got {warmup!r}.")
    return given
