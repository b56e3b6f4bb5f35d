"""Runs the learning rate schedule on paper before it is run (LT501-LT507, LT510, LT512, LT513)."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.optim.lr_scheduler import ConstantLR, CyclicLR, LRScheduler, ReduceLROnPlateau

from lightning_tuning.checks._metric_watch import MetricWatch
from lightning_tuning.checks._step_count import StepCount
from lightning_tuning.findings import Finding
from lightning_tuning.rules._schedule import Plan
from lightning_tuning.rules._schedule_copy import CannotCopyError
from lightning_tuning.rules._schedule_judge import judge_schedule
from lightning_tuning.runtime import Check, Desk, TuningCallback
from lightning_tuning.runtime.run_length import horizon_of, is_trial

__all__ = ["ScheduleCheck"]


class ScheduleCheck(Check):
    """Runs the learning rate schedule on paper before it is run (LT501-LT507, LT510, LT512, LT513).

    Before the first batch, every scheduler that Lightning will step is copied, with an optimizer of no parameters, and
    the copy is stepped as often as the run will step the real one: epochs, batches, accumulation, ``interval`` and
    ``frequency`` counted as Lightning counts them. The rates that come out are judged. A formula of the step count is
    looked at in a thousand places (a few milliseconds), any other schedule stepped through, up to 20000 steps. The real
    scheduler, its optimizer, functions that count their calls and the random number generators stay as they are.

    What it cannot know it says in the run's summary, and judges only the rest: a run without a known length, a module
    that overrides ``lr_scheduler_step``, a schedule that cannot be copied. Early stopping makes the length of a run an
    upper bound: what needs the end of the run is then judged on the part that early stopping cannot cut off. Trial runs
    (``fast_dev_run``, ``overfit_batches``, ``limit_train_batches`` below 1), resumed runs, manual optimization and
    weight averaging that takes the schedule over are left alone.

    Plateau schedulers, ``EarlyStopping`` and ``ModelCheckpoint`` are judged by the metric that they wait for: its name
    at once, its values at the end of each epoch. Whether the module steps a scheduler that Lightning steps as well is
    counted over the first 50 batches, for schedulers of epochs over the first three epochs.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ScheduleCheck()], logger=False, accelerator="cpu")

    Source: the semantics of ``torch.optim.lr_scheduler`` and of Lightning's ``configure_optimizers``, both measured.
    """

    def __init__(self) -> None:
        self._readings: dict[str, list[float]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for a look before the first batch; no trace of the step is needed."""
        TuningCallback.setup(self, trainer, pl_module, stage)
        if stage == "fit":
            self._readings = {}
            Desk.of(trainer).watch("train_start", self._begin)

    def tuning_state(self) -> dict[str, Any]:
        """The readings of the metrics, so that a resumed run knows which way they went."""
        return {"readings": self._readings} if self._readings else {}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """See :meth:`tuning_state`."""
        self._readings = {metric: list(values) for metric, values in state["readings"].items()}

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """The callbacks' ``on_train_start`` is over (the desk comes last): what is configured now will be stepped."""
        report = partial(self._report, trainer)
        desk = Desk.of(trainer)
        metrics = MetricWatch(trainer, self._readings, report)
        if metrics.metrics:
            desk.watch_loss()
            desk.watch("train_epoch_end", metrics.look)
        configs = trainer.lr_scheduler_configs
        if not configs or not pl_module.automatic_optimization:
            return True
        if is_overridden("lr_scheduler_step", pl_module):
            desk.journal.note(
                "blind here: the module overrides `lr_scheduler_step`. May have missed something: ScheduleCheck."
            )
            return True
        names = _names(configs)
        by_step = any(config.interval == "step" for config in configs)
        count = StepCount(trainer, ", ".join(names), report)
        desk.watch("train_batch_end" if by_step else "train_epoch_end", count.look)
        is_fresh = trainer.global_step == 0 and trainer.current_epoch == 0
        averages = any(isinstance(callback, StochasticWeightAveraging) for callback in _callbacks(trainer))
        if is_fresh and not averages and not is_trial(trainer):
            for config, name in zip(configs, names, strict=True):
                self._judge(trainer, config, name)
        return True

    def _judge(self, trainer: Trainer, config: Any, name: str) -> None:
        scheduler, journal = config.scheduler, Desk.of(trainer).journal
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
            return
        if getattr(scheduler, "last_epoch", 0) > 0:
            return
        horizon = horizon_of(trainer)
        if horizon.ticks(config.interval, config.frequency) is None:
            if not isinstance(scheduler, CyclicLR | ConstantLR):
                journal.note(
                    f"ScheduleCheck does not know the length of this run, and cannot tell whether {name} fits it."
                )
            return
        try:
            for finding in judge_schedule(Plan(scheduler, name, config.interval, config.frequency, horizon)):
                self._report(trainer, finding)
        except CannotCopyError as obstacle:
            journal.note(
                f"blind here: {name} cannot be run on paper, {obstacle}. May have missed something: ScheduleCheck."
            )

    def _report(self, trainer: Trainer, finding: Finding) -> None:
        self.report(trainer, finding, once=True)


def _callbacks(trainer: Trainer) -> list[Any]:
    return trainer.callbacks  # type: ignore[attr-defined,no-any-return]  # set by a connector of Lightning's


def _names(configs: list[Any]) -> list[str]:
    """The classes of the schedulers, numbered where there are several of one."""
    names = [type(config.scheduler).__name__ for config in configs]
    counts = Counter(names)
    return [f"{name} {names[:index].count(name)}" if counts[name] > 1 else name for index, name in enumerate(names)]
