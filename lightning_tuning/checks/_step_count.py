"""Whether a scheduler is stepped more often than Lightning steps it (LT513)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from torch.optim.lr_scheduler import LRScheduler

from lightning_tuning.findings import Finding
from lightning_tuning.rules._schedule_copy import leaves
from lightning_tuning.rules.schedule_stepped_twice import stepped_twice

__all__ = ["StepCount"]

_BATCHES = 50
_EPOCHS = 3


class StepCount:
    """Compares the schedulers' own counts with Lightning's, on the host, until it is sure.

    Args:
        trainer: before the first batch of the fit.
        where: how its schedulers are called in findings.
        report: takes the finding.
    """

    def __init__(self, trainer: Trainer, where: str, report: Callable[[Finding], None]) -> None:
        self._schedulers = _schedulers(trainer)
        self._where = where
        self._report = report
        self._counted = _counted(self._schedulers)
        self._expected = _stepped_by_lightning(trainer)
        self._begin = trainer.global_step, trainer.current_epoch
        self._ahead = 0
        self._times = 0

    def look(self, trainer: Trainer, *_: Any) -> bool:
        """True once nothing more is to be learned: the counts drifted apart twice, or did not for long enough."""
        schedulers, counted = _schedulers(trainer), _counted(self._schedulers)
        is_other = any(a is not b for a, b in zip(schedulers, self._schedulers, strict=False))
        if counted is None or self._counted is None or is_other or len(schedulers) != len(self._schedulers):
            return True  # swapped in mid-run (weight averaging), or of a kind that does not count
        steps, expected = counted - self._counted, _stepped_by_lightning(trainer) - self._expected
        if steps - expected > self._ahead:  # once may be meant: a first step that is made by hand
            self._ahead = steps - expected
            self._times += 1
        if self._times >= 2 and expected >= 1:
            batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
            found = stepped_twice(self._where, counted=steps, expected=expected, batches=batches)
            if found is not None:
                self._report(found)
            return True
        batches, epochs = trainer.global_step - self._begin[0], trainer.current_epoch - self._begin[1]
        return epochs >= _EPOCHS or (batches >= _BATCHES and expected >= 1 and self._times == 0)


def _schedulers(trainer: Trainer) -> list[Any]:
    return [config.scheduler for config in trainer.lr_scheduler_configs]


def _stepped_by_lightning(trainer: Trainer) -> int:
    return trainer.fit_loop.epoch_loop.scheduler_progress.total.completed


def _counted(schedulers: list[Any]) -> int | None:
    """How often they were stepped, all together; ``None`` if one does not count."""
    total = 0
    for scheduler in schedulers:
        first = next(leaves(scheduler)) if not hasattr(scheduler, "last_epoch") else scheduler
        counts_calls = type(first).step is LRScheduler.step
        count = getattr(first, "_step_count" if counts_calls else "last_epoch", None)
        if not isinstance(count, int):
            return None
        total += count
    return total
