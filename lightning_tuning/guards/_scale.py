"""Watches the scale of a GradScaler, and how often it leaves an update out (LT704)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.guards._actions import scaler_of
from lightning_tuning.guards._incident import Response
from lightning_tuning.measure import Landing
from lightning_tuning.rules.loss_scale_collapse import LossScaleJudge
from lightning_tuning.runtime import Desk

__all__ = ["ScaleWatch"]


class ScaleWatch(Response):
    """Counts the updates of a run with a GradScaler; without one it is idle and keeps nothing.

    The scale can only fall where an update is left out: there it is sent on its way to the host, and judged when it has
    landed. No host read besides.
    """

    def __init__(self) -> None:
        self._judge: LossScaleJudge | None = None
        self._seen = 0, 0
        self._landing = Landing()

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn what the scaler does by itself; a judge that came with a checkpoint goes on."""
        scaler = scaler_of(trainer)
        if scaler is None:
            self._judge = None
            return
        self._judge = self._judge or LossScaleJudge()
        self._judge.growth_interval = scaler.get_growth_interval()

    def follow(self, trainer: Trainer, *, updates: int, skipped: int) -> None:
        """A batch has ended; ``updates`` were due in the run so far, of which the scaler left ``skipped`` out."""
        if self._judge is None or updates == self._seen[0]:
            return
        left_out = skipped > self._seen[1]
        self._seen = updates, skipped
        self._judge.count(skipped=left_out)
        scale: Tensor | None = getattr(scaler_of(trainer), "_scale", None)  # `get_scale()` would wait for the device
        if left_out and scale is not None:  # a copy, for the scaler writes in place
            self._landing.send([scale.detach().clone()], functools.partial(self._receive, trainer))
        self._landing.collect()

    def end(self, trainer: Trainer) -> None:
        """Judge what is still on its way, unless the run broke off."""
        if trainer.interrupted:
            self._landing.clear()
        self._landing.collect(wait=True)

    def state_dict(self) -> dict[str, Any]:
        """Where the judge stands."""
        return {} if self._judge is None else {"judge": self._judge.state_dict(), "seen": list(self._seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with it."""
        self._judge = LossScaleJudge()
        self._judge.load_state_dict(state["judge"])
        self._seen = tuple(state["seen"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_landing": Landing()}  # what is under way belongs to this process

    def _receive(self, trainer: Trainer, numbers: list[list[float]]) -> None:
        finding = None if self._judge is None else self._judge.verdict(numbers[0][0])
        if finding is not None and trainer.is_global_zero:
            Desk.of(trainer).journal.report(finding, step=trainer.global_step, epoch=trainer.current_epoch)
