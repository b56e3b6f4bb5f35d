"""What a scheduler is, in words, and the numbers that tell its shape."""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, SequentialLR

__all__ = ["said_of", "shape_changes", "shape_of"]

_NUMBERS = ("T_max", "total_steps", "total_iters", "step_size", "gamma", "milestones", "T_0", "_milestones")


def said_of(scheduler: LRScheduler) -> str:
    """``"LinearLR(total_iters=10), then CosineAnnealingLR(T_max=90)"``."""
    if isinstance(scheduler, SequentialLR):
        return ", then ".join(map(said_of, scheduler._schedulers))
    if isinstance(scheduler, ChainedScheduler):
        return " and ".join(map(said_of, scheduler._schedulers))
    inside = ", ".join(f"{name}={_plain(value)}" for name, value in shape_of(scheduler).items())
    return f"{type(scheduler).__name__}({inside})" if inside else type(scheduler).__name__


def shape_of(scheduler: LRScheduler) -> dict[str, Any]:
    """The numbers that a checkpoint brings along with a scheduler."""
    shape = {name: vars(scheduler)[name] for name in _NUMBERS if name in vars(scheduler)}
    for part in getattr(scheduler, "_schedulers", ()):
        shape.update({f"{type(part).__name__}.{name}": value for name, value in shape_of(part).items()})
    return shape


def shape_changes(fresh: dict[str, Any], loaded: dict[str, Any]) -> str:
    """``"T_max is 90, would be 190"``; empty where nothing changed."""
    changed = [name for name in fresh if name in loaded and loaded[name] != fresh[name]]
    return ", ".join(f"{name.strip('_')} is {_plain(loaded[name])}, would be {_plain(fresh[name])}" for name in changed)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(sorted(value) if isinstance(value, dict) else value)  # MultiStepLR counts its milestones
