"""Schedulers that Lightning does not step, because the module optimizes by hand."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from lightning.pytorch import Trainer
from torch.optim.lr_scheduler import LRScheduler

from lightning_tuning.runtime._plateau_facts import is_at_last_batch

__all__ = ["HandStepper"]


class HandStepper:
    """Steps schedulers when Lightning would, and keeps their state.

    Args:
        interval: ``"step"`` (every batch is one) or ``"epoch"``.
        frequency: intervals per tick.

    Attributes:
        schedulers: to be stepped; none = nothing to do.
        loaded: their state in the checkpoint, until they are there.
    """

    def __init__(self, interval: str, frequency: int) -> None:
        self.interval, self.frequency = interval, frequency
        self.schedulers: list[LRScheduler] = []
        self.loaded: list[dict[str, Any]] = []

    def begin(self) -> None:
        """A fit begins; what it has in a checkpoint is read after this."""
        self.schedulers, self.loaded = [], []

    def restore(self) -> None:
        """Go on where the checkpoint was."""
        loaded, self.loaded = self.loaded, []
        for scheduler, state in zip(self.schedulers, loaded, strict=False):
            scheduler.load_state_dict(state)

    def step(self, trainer: Trainer, batch_idx: int) -> None:
        """At the end of a batch: before checkpoints are written there, as Lightning's own steps are."""
        if not self.schedulers:
            return
        if self.interval == "epoch":
            if not is_at_last_batch(trainer) or (trainer.current_epoch + 1) % self.frequency:
                return
        elif (batch_idx + 1) % self.frequency:
            return
        for scheduler in self.schedulers:
            with warnings.catch_warnings():
                # A module that adds up gradients over batches has not stepped yet in its first ones.
                warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler\.step\(\)` before", UserWarning)
                trainer.lightning_module.lr_scheduler_step(scheduler, None)

    def let_go(self) -> None:
        """Hold on to no optimizer; a checkpoint that is written after the fit has the state all the same."""
        self.loaded = self.state().get("schedulers", [])
        self.schedulers = []

    def state(self) -> dict[str, Any]:
        """For the checkpoint; empty where Lightning keeps everything."""
        states = [scheduler.state_dict() for scheduler in self.schedulers] or self.loaded
        return {"schedulers": copy.deepcopy(states)} if states else {}
