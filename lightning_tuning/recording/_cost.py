"""When the cost of the callbacks is looked at, and what is kept of it."""

from __future__ import annotations

from lightning.pytorch import Callback, Trainer

from lightning_tuning.recording._stopwatch import StopWatch, memory
from lightning_tuning.runtime import Desk, TuningCallback

__all__ = ["CostLooks"]

_FIRST = 20
"""Steps before the first look: the first ones are traced, and looked at by every check."""
_EVERY = 500
_LONG, _SHORT = 10, 4
"""Batches of a look: ten readings are handed on together, see :class:`Meter`; fewer where the epoch is over."""


class CostLooks:
    """Times the callbacks of this library in ten batches of some hundreds.

    A look goes from one reading to another, without a validation or the end of an epoch between them.

    Args:
        trainer: of the fit; weakly held, if it is a proxy.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._watch = StopWatch()
        self._began = 0.0
        self._batch = 0
        self._due = _FIRST

    @property
    def is_looking(self) -> bool:
        """A look is under way."""
        return self._watch.runs

    def take(self, step: int, seconds: float) -> dict[str, float]:
        """A reading has landed: what a look came to that ends here; mostly nothing."""
        if self._watch.runs:
            return self.end(step, seconds, fewest=_LONG)
        if step >= self._due:
            self._began, self._batch = seconds, self._batches()
            callbacks: list[Callback] = self._trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
            self._watch.start([callback for callback in callbacks if isinstance(callback, TuningCallback | Desk)])
        return {}

    def end(self, step: int, seconds: float, fewest: int = 0) -> dict[str, float]:
        """What a look came to that has lasted ``fewest`` batches; or that ends now, whatever it has seen."""
        if not self._watch.runs or (batches := self._batches() - self._batch) < fewest:
            return {}
        ours, whole = self._watch.stop(), seconds - self._began
        if batches < _SHORT or not whole > 0:
            return {}
        self._due = step + max(_EVERY, step // 20)
        times = {"ours_us_per_step": 1e6 * ours / batches, "step_us": 1e6 * whole / batches, "ours_share": ours / whole}
        return times | memory(self._trainer.strategy.root_device)

    def _batches(self) -> int:
        return int(self._trainer.fit_loop.epoch_loop.total_batch_idx)
