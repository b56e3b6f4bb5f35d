"""The last sound states of a run, and which of them to go back to."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn.parameter import is_lazy

from lightning_tuning.guards._averages import is_averaged_epoch
from lightning_tuning.guards._ranks import exchange
from lightning_tuning.guards._rollback_state import TrainingState

__all__ = ["Shelf", "Snapshot"]

_KEPT = 2
"""States at a time."""

_LEVEL = 20
"""Losses that tell where a run stood when its state was copied."""


@dataclasses.dataclass(eq=False)
class Snapshot:
    """A copied state.

    Attributes:
        state: the copies.
        losses: of the batches that led to it, the last ones.
        is_first: nothing was there before it: it counts as sound without a batch that says so.
        since: ``trainer.global_step`` from which on updates build on it.
        time: when that was, in seconds.
    """

    state: TrainingState
    losses: list[float]
    is_first: bool
    since: int
    time: float = dataclasses.field(default_factory=time.monotonic)


class Shelf:
    """Copies the state of a run every so often, and keeps the last two copies that proved sound.

    Args:
        every_n_steps: steps of ``trainer.global_step`` between two copies.
        device: where they are kept; also an attribute.
    """

    def __init__(self, every_n_steps: int, device: torch.device) -> None:
        self._every = every_n_steps
        self.device = device
        self.clear()

    def clear(self) -> None:
        """Let go of everything."""
        self._sound: list[Snapshot] = []
        self._waiting: Snapshot | None = None
        self._spare: list[TrainingState] = []
        self._losses: deque[float] = deque(maxlen=_LEVEL)
        self._taken_at = 0
        self._epoch = -1

    def batch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the state if that is due."""
        if trainer.current_epoch != self._epoch:
            self._look_around(trainer, pl_module)
        step = trainer.global_step
        if is_averaged_epoch(trainer):
            return  # nothing is trained, nothing to go back from
        if self._waiting is not None or (self._sound and step - self._taken_at < self._every):
            return
        if any(is_lazy(parameter) for parameter in pl_module.parameters()):
            return  # it has no values before its first batch
        self._taken_at = step
        if len(self._sound) == _KEPT:
            self._spare.append(self._sound.pop(0).state)
        state = self._spare.pop() if self._spare else TrainingState(self.device)
        state.take(trainer, pl_module)
        self._waiting = Snapshot(state, list(self._losses), is_first=not self._sound, since=step)

    def batch_end(self, loss: float) -> None:
        """The batch was judged, its ``loss`` not finite if it was bad: so is the state that it started from."""
        is_sound = math.isfinite(loss)
        if is_sound:
            self._losses.append(loss)
        if self._waiting is not None:
            self._judge(self._waiting, is_sound=is_sound)

    def newest(self, not_after_step: int | None) -> Snapshot | None:
        """The newest sound state, of ``not_after_step`` or before; every rank has to ask."""
        if self._waiting is not None and self._waiting.is_first:
            self._judge(self._waiting, is_sound=True)
        usable = [kept for kept in self._sound if not_after_step is None or kept.state.step <= not_after_step]
        return usable[-1] if usable else None

    def drop_after(self, target: Snapshot, step: int) -> None:
        """What was copied after ``target`` is of a run that did not happen; a new stretch begins at ``step``."""
        kept = self._sound.index(target) + 1
        self._spare += [later.state for later in self._sound[kept:]]
        if self._waiting is not None:
            self._spare.append(self._waiting.state)
        self._sound, self._waiting = self._sound[:kept], None
        self._taken_at = target.since = step
        target.time = time.monotonic()
        self._losses = deque(target.losses, maxlen=_LEVEL)

    def _judge(self, waiting: Snapshot, *, is_sound: bool) -> None:
        self._waiting = None
        # Ranks are asked together: the weights of one may be broken alone.
        if (is_sound or waiting.is_first) and all(exchange(waiting.state.is_finite())):
            self._sound.append(waiting)
        else:
            self._spare.append(waiting.state)

    def _look_around(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copies of weights that were replaced since then, not trained, are of no use: pruning, SWA's last epoch."""
        losses = self._losses
        if is_averaged_epoch(trainer) or not all(kept.state.fits(trainer, pl_module) for kept in self._sound):
            self.clear()
        self._losses, self._epoch = losses, trainer.current_epoch
