"""A cut of the learning rate that no schedule undoes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

__all__ = ["cut_rates", "rates_text"]

_OF_GROUP = ("initial_lr", "max_lr", "min_lr", "swa_lr")
"""What schedulers keep in a parameter group to derive the rate from; ``OneCycleLR`` keeps three of them there."""

_LOWEST = frozenset({"eta_min", "eta_mins"})


def cut_rates(trainer: Trainer, factor: float) -> None:
    """Multiply every learning rate of the run by ``factor``, now and in all that its schedules have yet to say.

    A schedule keeps its shape and its place: wherever it would have set a rate to ``x``, it sets ``factor * x``. To
    that end all numbers are scaled that it derives the rate from: in the parameter groups ``initial_lr`` and what
    ``OneCycleLR`` and ``SWALR`` keep there, in a scheduler every number or list whose name ends in ``lr`` or ``lrs``
    and ``eta_min``, also in the schedulers inside a ``SequentialLR`` or ``ChainedScheduler``. Momentum that is cycled
    along is not touched. The floor of a plateau scheduler (``min_lr``) stays what the user asked for: it never lifts a
    rate. What survives in a checkpoint is the scaled state; a schedule that sets rates from elsewhere, such as a
    module that writes ``param_groups`` itself, is not held down.

    Args:
        trainer: the trainer of the run.
        factor: new rate over old rate.
    """
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # compiled and captured optimizers hold on to this very tensor
                group["lr"].mul_(factor)
            else:
                group["lr"] *= factor
            group.update({name: _scaled(group[name], factor) for name in _OF_GROUP if name in group})
    seen: set[int] = set()
    for config in trainer.lr_scheduler_configs:
        for scheduler in _flat(config.scheduler, seen):
            _cut_schedule(scheduler, factor)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector of Lightning's
        if isinstance(callback, StochasticWeightAveraging) and not callback._initialized:
            callback._swa_lrs = _scaled(callback._swa_lrs, factor)  # its schedule is made from them later


def rates_text(trainer: Trainer) -> str:
    """The learning rates of the run as they are: a few numbers."""
    rates = [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
    shown = list(dict.fromkeys(f"{rate:.3g}" for rate in rates))
    return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")


def _flat(scheduler: Any, seen: set[int]) -> Iterator[Any]:
    if id(scheduler) in seen:
        return
    seen.add(id(scheduler))
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from _flat(inner, seen)


def _cut_schedule(scheduler: Any, factor: float) -> None:
    floors = {"min_lrs", "default_min_lr"} if isinstance(scheduler, ReduceLROnPlateau) else set()
    for name, value in vars(scheduler).items():
        if name not in floors and (name in _LOWEST or name.rsplit("_", 1)[-1] in ("lr", "lrs")) and _is_rate(value):
            setattr(scheduler, name, _scaled(value, factor))


def _is_rate(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_rate, value))
    return isinstance(value, int | float | Tensor) and not isinstance(value, bool)


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_scaled(item, factor) for item in value)
    return value * factor
