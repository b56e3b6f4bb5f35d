"""How often a learning rate scheduler that is configured now will be stepped."""

from __future__ import annotations

import dataclasses
import math

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lightning_tuning.measure.horizon import Horizon
from lightning_tuning.runtime.run_length import horizon_of

__all__ = ["scheduler_ticks"]


def scheduler_ticks(
    trainer: Trainer, interval: str, frequency: int, *, optimizers: int = 1, whole: bool = False
) -> int | None:
    """Ticks in what is left of the fit, at most; ``None`` where nobody can know.

    To be asked in ``configure_optimizers``, where the training data is loaded for it, as for Lightning's
    ``estimated_stepping_batches``. A second ``fit`` of one ``Trainer`` has fresh schedulers and a part of the steps
    behind it; in a resumed one those come back only after the schedulers were made, and are not left out. With manual
    optimization a tick of interval ``"step"`` is a batch; ``max_steps`` counts the steps of all optimizers there, and
    each is taken to make one per batch.

    Args:
        trainer: about to start ``fit``.
        interval: ``"step"`` or ``"epoch"``.
        frequency: see :meth:`~lightning_tuning.measure.horizon.Horizon.ticks`.
        optimizers: how many the module has configured.
        whole: count what is behind too.
    """
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    horizon, done = horizon_of(trainer), trainer.global_step
    if not trainer.lightning_module.automatic_optimization:
        limit = None if horizon.max_steps is None else math.ceil(horizon.max_steps / optimizers)
        horizon, done = dataclasses.replace(horizon, max_steps=limit), done // optimizers
    ticks = horizon.ticks(interval, frequency)
    if ticks is None and interval == "step" and frequency == 1:
        ticks = _accumulated_by_schedule(trainer, horizon)
    if ticks is None or whole or (done == 0 and trainer.current_epoch == 0):
        return ticks
    if interval == "epoch":
        return max(0, ticks - trainer.current_epoch // frequency)
    return max(0, ticks - (dataclasses.replace(horizon, max_steps=done, epochs=None).ticks(interval, frequency) or 0))


def _accumulated_by_schedule(trainer: Trainer, horizon: Horizon) -> int | None:
    """Optimizer steps where epochs differ in the batches that each takes."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
    accumulation = next((c for c in callbacks if isinstance(c, GradientAccumulationScheduler)), None)
    batches = trainer.num_training_batches
    if accumulation is None or horizon.epochs is None or not math.isfinite(batches):
        return None
    by_epochs = sum(
        math.ceil(batches / accumulation.get_accumulate_grad_batches(epoch)) for epoch in range(horizon.epochs)
    )
    return by_epochs if horizon.max_steps is None else min(by_epochs, horizon.max_steps)
