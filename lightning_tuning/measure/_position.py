"""Where a fit stands, at a price that can be paid in each step."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer

__all__ = ["Position", "optimizer_index"]


class Position:
    """``trainer.global_step`` and ``trainer.current_epoch``, read from the counters behind them.

    The properties pass through a dozen others, which takes 10 microseconds in a step on a CPU. The counters live as
    long as the trainer's loops, and are written in place, by a resume as well.

    Args:
        trainer: of a fit that has begun; only weakly held where it is a proxy.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.is_automatic: bool = trainer.lightning_module.automatic_optimization
        self._steps: Any = None
        self._epochs: Any = None
        try:
            loop = trainer.fit_loop
            if self.is_automatic:
                self._steps = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
            self._epochs = loop.epoch_progress.current
            is_known = self.step == trainer.global_step and self.epoch == trainer.current_epoch
        except AttributeError:
            is_known = False
        if not is_known:  # another Lightning
            self._steps = self._epochs = None

    @property
    def step(self) -> int:
        """``trainer.global_step``."""
        step: int = self._trainer.global_step if self._steps is None else self._steps.completed
        return step

    @property
    def epoch(self) -> int:
        """``trainer.current_epoch``."""
        epoch: int = self._trainer.current_epoch if self._epochs is None else self._epochs.completed
        return epoch

    def index_of(self, optimizer: Optimizer) -> int:
        """The place of ``optimizer``, wrapped or not, among the trainer's."""
        return optimizer_index(self._trainer, optimizer)


def optimizer_index(trainer: Trainer, optimizer: Optimizer) -> int:
    """The place of ``optimizer``, wrapped or not, among the trainer's; 0 if it is none of them."""
    optimizers = trainer.optimizers
    if len(optimizers) < 2:
        return 0
    return next((i for i, known in enumerate(optimizers) if _raw(known) is _raw(optimizer)), 0)


def _raw(optimizer: Any) -> Optimizer:
    raw: Optimizer = getattr(optimizer, "optimizer", optimizer)
    return raw
