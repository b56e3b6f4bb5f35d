"""Looks at whether the run can be repeated and its best model kept (LT901, LT902, LT904)."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint

from lightning_tuning.rules.module_in_hparams import modules_in_hparams
from lightning_tuning.rules.no_best_checkpoint import best_is_lost, metric_to_compare, stops_past_the_best
from lightning_tuning.rules.unseeded_run import is_seed, unseeded_run
from lightning_tuning.runtime import Check, Desk, TuningCallback

__all__ = ["RunCheck"]

_KEPT_READINGS = 200


class RunCheck(Check):
    """Looks at whether the run can be repeated and its best model kept (LT901, LT902, LT904).

    Lightning's default checkpoint follows no metric, and few quick scripts set a seed; to say so every time would be
    noise. So it is said where it costs something:

    - LT901 when the best model is certain to be lost (early stopping ends the run past it), or was: the validation
      metric has been worse than its best for three epochs, and only the latest checkpoint is kept. Quiet without a
      logger, with checkpoints turned off, with ``save_top_k=-1``, in a trial by ``fast_dev_run``.
    - LT902 at once: modules in ``hparams``, of the module and of the data module.
    - LT904 when the run is flat or diverges, so that somebody will want to repeat it. A seed is seen in the environment
      (``seed_everything``) or in torch's own seed (``torch.manual_seed``).

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[RunCheck()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self._readings: list[float] = []
        self._metric: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for looks at the start and at the ends of epochs; no trace of the step is needed."""
        TuningCallback.setup(self, trainer, pl_module, stage)
        if stage != "fit":
            return
        self._readings, self._metric = [], None
        desk = Desk.of(trainer)
        desk.watch("train_start", self._begin)
        if not _is_seeded():
            desk.watch_loss()
            desk.watch("train_epoch_end", self._look_at_seed)

    def tuning_state(self) -> dict[str, Any]:
        """The readings of the metric that tells the better model."""
        return {"metric": self._metric, "readings": list(self._readings)} if self._metric else {}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """See :meth:`tuning_state`."""
        self._metric, self._readings = state["metric"], list(state["readings"])

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        datamodule = getattr(trainer, "datamodule", None)
        for owner in (pl_module, datamodule):
            # `hparams` itself would make an empty one where there is none.
            for finding in modules_in_hparams(getattr(owner, "_hparams", None), type(owner).__name__):
                self.report(trainer, finding, once=True)
        if _keeps_the_latest(trainer):
            stopper = next((c for c in _callbacks(trainer) if isinstance(c, EarlyStopping)), None)
            found = stopper and stops_past_the_best(stopper.monitor, stopper.patience)
            if found:
                self.report(trainer, found, once=True)
            else:
                Desk.of(trainer).watch("train_epoch_end", self._look_at_best)
        return True

    def _look_at_best(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        metrics = trainer.callback_metrics
        self._metric = self._metric or metric_to_compare(list(metrics))
        if self._metric is None or self._metric not in metrics:
            return False
        self._readings = [*self._readings[1 - _KEPT_READINGS :], float(metrics[self._metric])]
        found = best_is_lost(self._metric, self._readings)
        if found is not None:
            self.report(trainer, found, once=True)
        return found is not None

    def _look_at_seed(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        found = unseeded_run(Desk.of(trainer).progress.state)
        if found is not None:
            self.report(trainer, found, once=True)
        return found is not None


def _is_seeded() -> bool:
    return "PL_GLOBAL_SEED" in os.environ or is_seed(torch.initial_seed())


def _keeps_the_latest(trainer: Trainer) -> bool:
    """Whether the run writes checkpoints, and every one of them follows no metric and replaces the last."""
    kept = [callback for callback in _callbacks(trainer) if isinstance(callback, Checkpoint)]
    return (
        bool(kept)
        and bool(trainer.loggers)
        and bool(trainer.enable_validation)
        and not trainer.fast_dev_run  # type: ignore[attr-defined]  # set by a function of Lightning's
        and not trainer.overfit_batches  # type: ignore[attr-defined]
        and all(type(c) is ModelCheckpoint and c.monitor is None and c.save_top_k == 1 for c in kept)
    )


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
    return callbacks
