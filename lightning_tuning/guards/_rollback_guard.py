"""A guard that can put the run back to where it was sound."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.findings import Finding
from lightning_tuning.guards import _actions
from lightning_tuning.guards._averages import is_averaged_epoch
from lightning_tuning.guards._diagnosis import Scene
from lightning_tuning.guards._rollback import Rollback
from lightning_tuning.guards._step_guard import StepGuard
from lightning_tuning.runtime import Desk

__all__ = ["RollbackGuard"]


class RollbackGuard(StepGuard):
    """Adds ``action="rollback"``: the bad batch is dropped like any other, and after it the run goes back."""

    def _make_rollback(self) -> Rollback | None:
        """The way back, if ``action`` asks for it; made anew for each fit."""
        return None

    def _begin(self) -> None:
        super()._begin()
        self._rollback = self._make_rollback()
        self._keep_unscaled = None if self._rollback is None else self._unscale
        self._going_back_for = ""
        self._is_condemned = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that there is a way back before there is anything to undo."""
        if self._rollback is not None:
            self._rollback.begin(trainer, pl_module)
        super().on_train_start(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the state of the run, if that is due."""
        self._is_condemned = self._memory.bad_window
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._rollback is not None:
            self._rollback.batch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Go back, if the batch was reason to; else learn how it went."""
        scene = self._scene
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._rollback is not None:
            if not scene.bad:
                self._rollback.batch_end(trainer, pl_module, _loss(trainer, scene))
            self._go_back(trainer, pl_module)

    def tuning_state(self) -> dict[str, Any]:
        """With the rollbacks so far."""
        kept = {} if self._rollback is None else {"rollback": self._rollback.state_dict()}
        return {**super().tuning_state(), **kept}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        super().load_tuning_state(state)
        if self._rollback is not None and "rollback" in state:
            self._rollback.load_state_dict(state["rollback"])

    def _unscale(self, trainer: Trainer) -> None:
        """A GradScaler's factor changes: what a loss is compared with must be without it."""
        scaler: Any = _actions.scaler_of(trainer)
        if scaler is not None:
            self._scene.unscaled.append(self._scene.losses[-1] / scaler._scale)

    def _act(self, trainer: Trainer, finding: Finding, *, mendable: bool) -> None:
        """Raise if there is no way back, or say that the run goes back; for an accumulation window once."""
        is_dropped_anyway = mendable and (self._is_condemned or is_averaged_epoch(trainer))
        if self._rollback is not None and not is_dropped_anyway:
            why, promise = self._rollback.outlook(trainer, trainer.lightning_module)
            finding = dataclasses.replace(finding, message=f"{finding.message}; {why or promise}")
            if why:
                self._undo(trainer)
                self.fail(trainer, finding)
            self._going_back_for = finding.code
        super()._act(trainer, finding, mendable=mendable)

    def _check_weights(self, trainer: Trainer, pl_module: LightningModule, when: str) -> None:
        super()._check_weights(trainer, pl_module, when)
        self._go_back(trainer, pl_module)  # between batches, so at once

    def _go_back(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._rollback is not None and self._going_back_for:
            self._rollback.go_back(trainer, pl_module, reason=self._going_back_for)
            self._going_back_for = ""
            self._memory.norms.clear()  # of updates that are undone

    def _close(self, trainer: Trainer) -> None:
        super()._close(trainer)
        if self._rollback is not None:
            if desk := Desk.find(trainer):
                desk.journal.notes += self._rollback.notes()
            self._rollback.end()


def _loss(trainer: Trainer, scene: Scene) -> float | None:
    """The loss of a batch as the module returned it; the mean of several."""
    if not scene.seen:
        return None
    divided_by = trainer.accumulate_grad_batches if trainer.lightning_module.automatic_optimization else 1
    return statistics.fmean(scene.seen) * divided_by
