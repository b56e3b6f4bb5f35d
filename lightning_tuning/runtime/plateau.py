"""One plateau step per reading, across every kind of checkpoint.

Lightning steps a ``ReduceLROnPlateau`` of epoch interval at the very end of an epoch: after ``on_train_epoch_end``, so
after the checkpoints of that epoch were written. What follows (measured with Lightning 2.6.6):

- resumed from a checkpoint of an epoch's end (``on_train_epoch_end``, ``on_validation_end``), that epoch's step is
  lost;
- resumed from one inside an epoch, ``fit_loop.restarting`` stays set until the epoch is over, and its step is left out;
- resumed from one at an epoch's last batch, before validation, Lightning skips the rest of that epoch, validation too,
  and then loses the next epoch's step for the reason above;
- with manual optimization no scheduler is stepped at all.

All four are mended in one way. At an epoch's end a step is noted as *due*, with the count of steps taken so far. When
the next epoch starts (or the run ends), a scheduler whose count has not moved is stepped, with the metric that is
there, or else with the one that the checkpoint carried.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_tuning.runtime._plateau_facts import (
    checks_text,
    cut_text,
    is_at_last_batch,
    learning_rates,
    may_be_logged_later,
    missing_metric,
    reading,
    reading_of_epoch,
    refuse_disagreement,
    stoppers,
)
from lightning_tuning.runtime._plateau_watch import Judge, Watch
from lightning_tuning.runtime.callback import TuningCallback
from lightning_tuning.runtime.desk import Desk

__all__ = ["PlateauKeeper", "Watch"]

_KEPT_READINGS = 50


@dataclasses.dataclass(frozen=True)
class _Due:
    """A step that is due for ``epoch``: counts and rates of the schedulers before it, the metric if it was kept."""

    epoch: int
    counts: tuple[int, ...]
    rates: tuple[list[float], ...]
    value: float | None


class PlateauKeeper(TuningCallback):
    """Sees that plateau schedulers take exactly one step per reading, and says what they did.

    Args:
        owner: how it is called in messages.
        judge: gives the findings on the scheduler.
    """

    def __init__(self, owner: str, judge: Judge) -> None:
        self._owner = owner
        self._judge = judge
        self._begin()

    def _begin(self) -> None:
        self._watch = Watch()
        self._due: _Due | None = None
        self._settled = -1
        self._validated_at = -1
        self._kept: tuple[int, float | None] = (-1, None)
        self._readings: list[float] = []
        self._loaded: dict[str, Any] = {}
        self._saved: dict[str, Any] = {}

    def watched(self, trainer: Trainer) -> Watch:
        """What to keep in this run; by default the one plateau scheduler of epoch interval that was configured."""
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau) and config.interval == "epoch" and config.monitor:
                return Watch((config.scheduler,), config.monitor, config.frequency)
        return Watch()

    @property
    def kept(self) -> Watch:
        """What is kept in the present run, from its ``on_train_start`` on."""
        return self._watch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A fit begins with nothing due."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._begin()
            Desk.of(trainer).watch_loss()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hold on to no optimizer."""
        self._watch = Watch()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the set-up; take the step that the checkpoint was written without."""
        self._watch = self.watched(trainer)
        loaded, self._loaded = self._loaded, {}
        if not self._watch.schedulers:
            return
        self._report(trainer)
        if not loaded or self._watch.frequency is None:
            return
        epoch, value = loaded["epoch"], loaded["value"]
        if loaded["is_due"]:
            self._due = self._expect(epoch, value)
        elif loaded["is_complete"] and epoch == trainer.current_epoch:
            self._kept = epoch, value
        elif loaded["is_complete"] and (epoch + 1) % self._watch.frequency == 0:
            # Lightning goes on with the next epoch; what came after this one's last batch does not happen any more.
            if value is not None:
                self._due = self._expect(epoch, value)
            else:
                Desk.of(trainer).journal.note(
                    f"{self._owner} has no reading of epoch {epoch}: resumed from a checkpoint of its last batch, "
                    f"Lightning skips the validation that would have given {self._watch.monitor}"
                )
        self._settle(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A reading, if every validation is one. Before the checkpoints of this hook, which so hold the step."""
        if trainer.sanity_checking or not self._watch.schedulers or self._validated_at == trainer.global_step:
            return
        self._validated_at = trainer.global_step
        if self._watch.frequency is None:
            self._due = self._expect(trainer.current_epoch)
            self._settle(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A step is due. Lightning takes it after this hook, or does not."""
        epoch = trainer.current_epoch
        if not self._watch.schedulers or self._watch.frequency is None or not is_at_last_batch(trainer):
            return
        if epoch <= self._settled or (epoch + 1) % self._watch.frequency != 0:
            return  # resumed with `max_steps`, Lightning ends an epoch a second time
        self._due = self._expect(epoch, self._kept[1] if self._kept[0] == epoch else None)
        if self._value(trainer, self._due) is None and not may_be_logged_later(trainer, pl_module, self):
            raise missing_metric(trainer, self._owner, self._watch.monitor)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Whatever is still due of the last epoch is done now."""
        self._settle(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last epoch has no successor to see to it."""
        self._settle(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed run needs to take the step that this checkpoint is written without."""
        self._saved = self._snapshot(trainer) if self._watch.schedulers else self._loaded
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def tuning_state(self) -> dict[str, Any]:
        """What was due when the checkpoint was written, and with which reading."""
        return self._saved

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Acted upon in :meth:`on_train_start`, when the schedulers are restored too."""
        self._loaded = dict(state)
        self._settled = state["settled"]
        self._validated_at = state["validated_at"]
        self._readings = list(state["readings"])

    def forget_readings(self) -> None:
        """What the checkpoint carried belongs to another metric."""
        self._loaded = {}
        self._readings = []

    def _expect(self, epoch: int, value: float | None = None) -> _Due:
        schedulers = self._watch.schedulers
        return _Due(epoch, tuple(s.last_epoch for s in schedulers), tuple(map(learning_rates, schedulers)), value)

    def _value(self, trainer: Trainer, due: _Due) -> float | None:
        live = reading(trainer, self._watch.monitor)
        return due.value if live is None else live

    def _settle(self, trainer: Trainer) -> None:
        due, self._due = self._due, None
        if due is None:
            return
        value = self._value(trainer, due)
        refuse_disagreement(trainer, self._owner, self._watch.monitor, value)
        if value is None:
            raise missing_metric(trainer, self._owner, self._watch.monitor)
        for scheduler, count, before in zip(self._watch.schedulers, due.counts, due.rates, strict=True):
            if scheduler.last_epoch == count:
                trainer.lightning_module.lr_scheduler_step(scheduler, value)
            if cut := cut_text(trainer, scheduler, before):
                Desk.of(trainer).journal.note(
                    f"{self._owner} lowered {cut} at epoch {due.epoch} ({self._watch.monitor} flat for "
                    f"{checks_text(scheduler.patience + 1)}, best {scheduler.best:.4g})"
                )
        self._settled = due.epoch
        self._readings = [*self._readings[: _KEPT_READINGS - 1], value]  # the first ones, and the latest
        self._report(trainer)

    def _snapshot(self, trainer: Trainer) -> dict[str, Any]:
        state = {"settled": self._settled, "validated_at": self._validated_at, "readings": list(self._readings)}
        due = self._due
        if due is not None:
            pending = any(s.last_epoch == n for s, n in zip(self._watch.schedulers, due.counts, strict=True))
            value = self._value(trainer, due)
            state["settled"] = self._settled if pending else due.epoch
            return {
                **state,
                "epoch": due.epoch,
                "is_due": pending and value is not None,
                "is_complete": False,
                "value": value,
            }
        progress: Any = trainer.fit_loop.epoch_progress.current
        is_complete = progress.started > progress.processed and is_at_last_batch(trainer)
        value = None
        if is_complete:
            has_validated = self._validated_at == trainer.global_step
            value = reading_of_epoch(trainer, self._watch.monitor, has_validated=has_validated)
        return {**state, "epoch": trainer.current_epoch, "is_due": False, "is_complete": is_complete, "value": value}

    def _report(self, trainer: Trainer) -> None:
        scheduler = self._watch.schedulers[0]
        for finding in self._judge(
            self._owner,
            self._watch.monitor,
            mode=scheduler.mode,
            patience=scheduler.patience,
            threshold=scheduler.threshold,
            threshold_mode=scheduler.threshold_mode,
            stoppers=stoppers(trainer, self._watch.frequency),
            readings=self._readings,
            is_learning=Desk.of(trainer).progress.state in ("learning", "converged"),
        ):
            self.report(trainer, finding, once=True)
