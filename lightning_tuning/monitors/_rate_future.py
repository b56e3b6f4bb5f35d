"""What a run tells of its learning rates, now and to its end, and of its validation metrics."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_tuning.rules._optimizers import family_of, title_of
from lightning_tuning.rules._schedule_copy import CannotCopyError
from lightning_tuning.rules._schedule_curve import curve_of
from lightning_tuning.rules.constant_rate_at_plateau import is_flat
from lightning_tuning.rules.learning_rate_band import Rate
from lightning_tuning.rules.plateau_mode import better_direction
from lightning_tuning.runtime.run_length import horizon_of

__all__ = ["comes_down", "has_statistics", "known_metrics", "rates_now", "was_averaged"]

_REWARDS = ("reward", "return", "score")
"""Of reinforcement learning, whose plateaus have other reasons; and a score may be anything."""


def rates_now(trainer: Trainer) -> list[Rate]:
    """Every group's learning rate that is known to the host; of a rate on the device NaN."""
    rates = []
    several = len(trainer.optimizers) > 1
    for index, wrapper in enumerate(trainer.optimizers):
        optimizer: Any = getattr(wrapper, "optimizer", wrapper)
        title, family = title_of(optimizer, index, several=several), family_of(optimizer)
        for number, group in enumerate(optimizer.param_groups):
            lr = group.get("lr", math.nan)
            on_host = not isinstance(lr, Tensor) or (lr.is_cpu and lr.numel() == 1)
            rates.append(Rate(f"{title} group {number}", index, family, float(lr) if on_host else math.nan))
    return rates


def comes_down(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether anything may change the rates from here on; in doubt it does."""
    if not trainer.lr_scheduler_configs:
        return False
    if is_overridden("lr_scheduler_step", pl_module):
        return True
    horizon = horizon_of(trainer)
    for config in trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
            return True
        done = max(0, int(getattr(scheduler, "last_epoch", 0)))
        ticks = horizon.ticks(config.interval, config.frequency)
        left = max(done, 1) if ticks is None else ticks - done
        try:
            if left > 0 and not is_flat(curve_of(scheduler, left).groups):
                return True
        except CannotCopyError:
            return True
    return False


def was_averaged(trainer: Trainer) -> bool:
    """Whether averages of the weights do what a falling rate would."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
    return any(isinstance(callback, StochasticWeightAveraging | WeightAveraging) for callback in callbacks)


def known_metrics(trainer: Trainer) -> dict[str, tuple[str, float]]:
    """Mode and value of each metric of the last validation whose better direction its name tells. A device sync."""
    results: Any = trainer.fit_loop.epoch_loop.val_loop._results
    values = results.metrics(on_step=False)["callback"]
    found = {}
    for name, value in values.items():
        mode = better_direction(name)
        if mode is not None and not any(word in name.lower() for word in _REWARDS) and value.numel() == 1:
            found[name] = mode, float(value)
    return found


def has_statistics(pl_module: LightningModule) -> bool:
    """Whether a batch norm has counted batches before; it was loaded, then. A device sync."""
    counts = [
        buffer.reshape(())
        for name, buffer in pl_module.named_buffers()
        if name.endswith("num_batches_tracked") and buffer.numel() == 1 and not buffer.is_meta
    ]
    return bool(counts) and max(torch.stack(counts).tolist()) > 0
