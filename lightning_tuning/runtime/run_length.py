"""How long a fit will be, as far as its Trainer says."""

from __future__ import annotations

import math

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, Timer

from lightning_tuning.measure.horizon import Horizon

__all__ = ["horizon_of", "is_trial"]


def horizon_of(trainer: Trainer) -> Horizon:
    """The length of the run of ``trainer``, whose data is loaded."""
    epochs, steps, batches = trainer.max_epochs, trainer.max_steps, trainer.num_training_batches
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
    accumulates_alike = not any(
        isinstance(callback, GradientAccumulationScheduler) and callback.going_to_accumulate_grad_batches()
        for callback in callbacks
    )
    return Horizon(
        epochs=None if epochs is None or epochs < 0 else epochs,
        batches=int(batches) if math.isfinite(batches) and accumulates_alike else None,
        accumulate=trainer.accumulate_grad_batches,
        max_steps=steps if steps >= 0 else None,
        surely=_surely(trainer, callbacks),
    )


def is_trial(trainer: Trainer) -> bool:
    """Whether the run is cut short on purpose, so that its schedule may be one for a longer run."""
    limit = trainer.limit_train_batches
    is_short: bool = trainer.fast_dev_run or trainer.overfit_batches  # type: ignore[attr-defined]  # set by Lightning
    return bool(is_short) or (isinstance(limit, float) and 0 < limit < 1)


def _surely(trainer: Trainer, callbacks: list[Callback]) -> int | None:
    """Epochs that pass before anything may end the run early; ``None`` where nothing may."""
    if any(isinstance(callback, Timer) for callback in callbacks):
        return trainer.min_epochs or 0
    stoppers = [callback for callback in callbacks if isinstance(callback, EarlyStopping)]
    if not stoppers:
        return None
    thresholds = any(s.stopping_threshold is not None or s.divergence_threshold is not None for s in stoppers)
    checks_per_epoch = 1
    if trainer.val_check_batch and math.isfinite(trainer.val_check_batch) and trainer.enable_validation:
        checks_per_epoch = max(1, int(trainer.num_training_batches // trainer.val_check_batch))
    patience = 0 if thresholds else min(stopper.patience for stopper in stoppers) // checks_per_epoch
    return max(trainer.min_epochs or 0, patience)
