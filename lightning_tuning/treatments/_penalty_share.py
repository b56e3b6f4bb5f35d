"""LT411 for a penalty that is added to the gradients: what share of the loss it would be."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from lightning_tuning.rules.penalty_dominates import PenaltyJudge, PenaltyReading
from lightning_tuning.runtime import Desk
from lightning_tuning.runtime.run_length import horizon_of

__all__ = ["PenaltyShare"]

_READINGS = 10
_EARLIEST = 25


class PenaltyShare:
    """Reads penalty and loss ten times in a run at most, at steps that double, as :class:`PenaltyMonitor` does.

    Args:
        trainer: of the run, at the start of training.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._horizon = horizon_of(trainer).steps
        self._judge = PenaltyJudge(self._horizon)
        self._next = 0

    def wants(self, step: int) -> bool:
        """Whether it is time to read."""
        return step >= self._next

    def take(self, trainer: Trainer, penalty: Tensor, loss: Tensor) -> None:
        """Send both on their way; judged when they have landed.

        Args:
            trainer: of the run.
            penalty: 0-d.
            loss: 0-d, of the same batch, without the penalty.
        """
        desk, step, epoch = Desk.of(trainer), trainer.global_step, trainer.current_epoch
        earliest = _EARLIEST if self._horizon is None else max(1, self._horizon // 2 ** (_READINGS - 2))
        self._next = max(step + earliest, 2 * step)

        def receive(numbers: list[list[float]]) -> None:
            reading = PenaltyReading(step, numbers[0][0], numbers[1][0])
            finding = self._judge.judge(reading)
            if finding is not None:
                desk.journal.report(finding, step=step, epoch=epoch)

        desk.meter.put([penalty, loss], receive)

    def state_dict(self) -> dict[str, Any]:
        """What was read, and when to read again."""
        return {"judge": self._judge.state_dict(), "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self._judge.load_state_dict(state["judge"])
        self._next = state["next"]
