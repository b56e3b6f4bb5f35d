"""The loggers of a trainer, as what is measured reaches them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger

__all__ = ["Outlet", "Spare"]

Spare = Callable[[Logger], contextlib.AbstractContextManager[object]]
"""Makes the context in which a logger is handed something; it may keep to itself what goes wrong there."""


class Outlet:
    """Hands numbers to the loggers that ``trainer`` has at that moment, one after the other.

    As Lightning itself does, it hands them over on every rank: whether others than rank 0 write is up to the logger.

    Args:
        trainer: or a weak proxy of it.

    Attributes:
        spare: see :data:`Spare`. By default a logger that fails ends the run; the desk puts in a context that notes it.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.spare: Spare = contextlib.nullcontext

    @property
    def now(self) -> int:
        """The loggers' step as Lightning counts it for its own: batches that stepped, however many optimizers."""
        step: int = self._trainer.fit_loop.epoch_loop._batches_that_stepped
        return step

    @property
    def log_step(self) -> int | None:
        """:attr:`now` if Lightning logs in this step; ``None`` if not, or if there are no loggers."""
        if not self._trainer.loggers:
            return None
        step = self.now
        every: int = self._trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector of Lightning's
        return step if every and (step + 1) % every == 0 else None

    def log(self, numbers: Mapping[str, float], step: int | None = None) -> None:
        """See :meth:`Meter.log`."""
        for logger in self._trainer.loggers:
            with self.spare(logger):
                logger.log_metrics(dict(numbers), step=self.now if step is None else step)
