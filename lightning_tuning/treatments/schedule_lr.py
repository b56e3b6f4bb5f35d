"""Any learning rate scheduler of torch, and a warm-up, for a run whose module stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_tuning.functional.schedule_lr import (
    check_schedule_arguments,
    length_argument,
    schedule_lr_config,
    warm_up_ticks,
)
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.runtime.run_length import is_trial
from lightning_tuning.runtime.scheduler_ticks import scheduler_ticks
from lightning_tuning.treatments._configure import (
    entries_of,
    extend_configure_optimizers,
    optimizer_indices,
    optimizers_and_schedulers,
    pick,
    restore_configure_optimizers,
    scheduler_in,
)
from lightning_tuning.treatments._schedule_chain import warm_up_entry
from lightning_tuning.treatments._schedule_steps import HandStepper
from lightning_tuning.treatments._schedule_words import said_of, shape_changes, shape_of

__all__ = ["ScheduleLR"]


class ScheduleLR(TuningCallback):
    """Puts any scheduler of ``torch.optim.lr_scheduler`` into a run, without a change in the module.

    ``ScheduleLR("CosineAnnealingLR", warmup=0.05)`` is a linear warm-up over a twentieth of the run and a cosine over
    the rest of it. What says how long a scheduler is (``T_max``, ``total_steps``, ``total_iters``) is taken from the
    Trainer unless it is among the ``arguments``, in units of ``interval`` and less the warm-up; the peak of a
    ``OneCycleLR`` is the optimizer's own rate unless given.

    The scheduler goes through ``configure_optimizers``, so it is validated, stepped, logged (``LearningRateMonitor``),
    checkpointed and resumed by Lightning itself, as one that is written in the module. A resumed run goes on with the
    checkpoint's schedule, its length included; the summary says so if the Trainer is set up for another one.

    With manual optimization, where Lightning steps no scheduler, the callback does, once per batch or at the last batch
    of an epoch, when Lightning would; it keeps the scheduler to itself (``self.lr_schedulers()`` stays as it is) and
    its state in the checkpoint.

    A schedule that waits for a metric (``ReduceLROnPlateau``) is :class:`PlateauLR`'s. A warm-up goes with it:
    ``PlateauLR("val_loss"), ScheduleLR(warmup=500, when_scheduled="chain")``, in this order.

    Args:
        scheduler: name of a class of ``torch.optim.lr_scheduler``, the class, a dotted path to another class or to a
            function ``f(optimizer, **arguments)`` that makes a scheduler, or such a function. Default ``None``: only a
            warm-up.
        arguments: of the scheduler, without the optimizer; a dict, so that it can be written in YAML. ``lr_lambda`` of
            ``LambdaLR`` may be a dotted path, or several, one per parameter group. Default ``None``: none.
        interval: ``"step"`` (default: what warm-ups and most recipes are counted in, where Lightning has ``"epoch"``)
            or ``"epoch"``.
        frequency: intervals per tick of the scheduler. Default 1.
        warmup: ticks of a linear warm-up before the schedule, or a fraction of the run between 0 and 1. Default 0.
            Mostly 1 to 10 % of the run are enough (LT512).
        warmup_start: the rate at the first tick, as a factor above 0. Default ``None``: ``1 / (warmup + 1)``, which
            wastes no tick however long the warm-up is.
        optimizer: index of the optimizer to schedule, or several. Default ``None``: all of them.
        when_scheduled: what to do if the module has a scheduler for the optimizer: ``"refuse"`` (default: two would
            overwrite each other), or ``"chain"``: put the warm-up before it, with a ``SequentialLR``. The module's
            schedule then begins ``warmup`` ticks later and its own length stays; ``interval`` must be the module's.
            ``scheduler`` is ``None`` with it.
        name: under which ``LearningRateMonitor`` logs the rate. Default ``None``: its own.

    Raises:
        ValueError: for an argument outside of what is said above.
        MisconfigurationException: at the start of fit, if the module has a scheduler already (see ``when_scheduled``),
            if a length is to be filled in and the run has none, or if there is no optimizer of that index.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> callbacks = [ScheduleLR("OneCycleLR", {"max_lr": 0.1})]
        >>> trainer = Trainer(callbacks=callbacks, logger=False, accelerator="cpu")
        >>> ScheduleLR("StepLR")
        Traceback (most recent call last):
        ...
        ValueError: `arguments` must be those of StepLR without the optimizer, got {}: missing a required argument: \
'step_size'.

    Source: ``torch.optim.lr_scheduler``; the warm-up: Goyal et al. 2017, Accurate, large minibatch SGD, section 2.2.
    """

    def __init__(
        self,
        scheduler: str | type | Callable[..., Any] | None = None,
        arguments: dict[str, Any] | None = None,
        *,
        interval: Literal["step", "epoch"] = "step",
        frequency: int = 1,
        warmup: int | float = 0,  # noqa: PYI041  # jsonargparse keeps an integer one only if told so
        warmup_start: float | None = None,
        optimizer: int | Sequence[int] | None = None,
        when_scheduled: Literal["refuse", "chain"] = "refuse",
        name: str | None = None,
    ) -> None:
        if when_scheduled not in ("refuse", "chain"):
            raise ValueError(f"`when_scheduled` must be 'refuse' or 'chain', got {when_scheduled!r}.")
        if when_scheduled == "chain" and scheduler is not None:
            raise ValueError(
                "`scheduler` must be None with when_scheduled='chain', which puts a warm-up before the module's own "
                f"scheduler, got {scheduler!r}."
            )
        self.timing: dict[str, Any] = {
            "warmup": warmup,
            "warmup_start": warmup_start,
            "interval": interval,
            "frequency": frequency,
        }
        self.arguments = check_schedule_arguments(scheduler, arguments, **self.timing)
        self.scheduler = scheduler
        self.optimizers = optimizer_indices(optimizer)
        self.when_scheduled = when_scheduled
        self.name = name
        self._own: list[LRScheduler] = []
        self._fresh: list[dict[str, Any]] = []
        self._by_hand = HandStepper(interval, frequency)

    @property
    def schedulers(self) -> list[LRScheduler]:
        """What it schedules in the present fit, one per optimizer."""
        return list(self._own)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Extend ``configure_optimizers`` for this fit."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._own, self._fresh = [], []
        self._by_hand.begin()
        extend_configure_optimizers(pl_module, lambda configured: self._extend(trainer, pl_module, configured))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimizers are configured; the module gets its own method back."""
        restore_configure_optimizers(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was put in; on a resume, with which length it goes on."""
        if not self._own:
            raise MisconfigurationException(
                f"ScheduleLR: {type(trainer.strategy).__name__} makes its own optimizers and never called "
                "`configure_optimizers`."
            )
        self._by_hand.restore()
        journal, frequency = Desk.of(trainer).journal, self.timing["frequency"]
        often = self.timing["interval"] if frequency == 1 else f"{frequency} {self.timing['interval']}s"
        for scheduler, fresh in zip(self._own, self._fresh, strict=True):
            said = f"ScheduleLR steps {said_of(scheduler)} every {often}"
            if said not in journal.notes:  # a checkpoint brings them along
                journal.note(said)
            if changes := shape_changes(fresh, shape_of(scheduler)):
                journal.note(f"ScheduleLR goes on with the checkpoint's schedule, not with this run's: {changes}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """With manual optimization, a tick."""
        self._by_hand.step(trainer, batch_idx)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The module gets its own method back, if the start of fit failed."""
        restore_configure_optimizers(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Likewise, if the strategy never asked; and hold on to no optimizer."""
        super().teardown(trainer, pl_module, stage)
        restore_configure_optimizers(pl_module)
        self._own, self._fresh = [], []
        self._by_hand.let_go()

    def tuning_state(self) -> dict[str, Any]:
        """The schedulers that Lightning does not know of."""
        return self._by_hand.state()

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Acted upon in :meth:`on_train_start`, when there are schedulers."""
        self._by_hand.loaded = copy.deepcopy(state["schedulers"])

    def _extend(self, trainer: Trainer, pl_module: LightningModule, configured: Any) -> Any:
        optimizers, entries = optimizers_and_schedulers(configured)
        ticks = self._ticks(trainer, len(optimizers))
        self._own, self._fresh, self._by_hand.schedulers = [], [], []
        for optimizer in pick("ScheduleLR", self.optimizers, optimizers):
            entries = self._scheduled(pl_module, optimizer, entries, ticks)
        self._fresh = [shape_of(scheduler) for scheduler in self._own]
        warmup = warm_up_ticks(self.timing["warmup"], ticks)
        if ticks is not None and 0 < warmup >= ticks and not is_trial(trainer):
            Desk.of(trainer).journal.note(
                f"ScheduleLR warms up for all of the run's {ticks} {self.timing['interval']}s"
            )
        return optimizers, entries

    def _scheduled(
        self, pl_module: LightningModule, optimizer: Optimizer, entries: list[Any], ticks: int | None
    ) -> list[Any]:
        """``entries`` with a schedule for ``optimizer``."""
        known = entries_of(optimizer, entries)
        if known and self.when_scheduled == "refuse":
            raise MisconfigurationException(
                f"ScheduleLR: `configure_optimizers` already has {type(scheduler_in(known[0])).__name__}, and "
                "two schedulers would overwrite each other's rates. Return the optimizer alone; or drop ScheduleLR; "
                "or, for a warm-up before the module's own, `ScheduleLR(warmup=..., when_scheduled='chain')`."
            )
        if known:
            entry = warm_up_entry(known, ticks=ticks, is_manual=not pl_module.automatic_optimization, **self.timing)
            if entry is not None:
                self._own.append(entry["scheduler"])
                return [entry if e is known[0] else e for e in entries]
        try:
            config = schedule_lr_config(
                optimizer, self.scheduler, self.arguments, ticks=ticks, name=self.name, **self.timing
            )
        except ValueError as error:
            raise MisconfigurationException(f"ScheduleLR: {error}") from error
        self._own.append(config["scheduler"])
        if pl_module.automatic_optimization:
            return [*entries, config]
        self._by_hand.schedulers.append(config["scheduler"])
        return entries

    def _ticks(self, trainer: Trainer, optimizers: int) -> int | None:
        """The length of the run, where anything needs it; loads the training data."""
        length = length_argument(self.scheduler, self.arguments)
        is_fraction = isinstance(self.timing["warmup"], float) and self.timing["warmup"] > 0
        if length is None and not is_fraction:
            return None
        interval, frequency = self.timing["interval"], self.timing["frequency"]
        ticks = scheduler_ticks(trainer, interval, frequency, optimizers=max(1, optimizers))
        if ticks is None:
            what = f"`{length}` of {self.scheduler!r}" if length else "a warm-up in ticks"
            raise MisconfigurationException(
                f"ScheduleLR: this run has no known length ({trainer.max_epochs=}, {trainer.max_steps=}, "
                f"{trainer.num_training_batches=}). Give {what}, or end the Trainer by `max_steps`."
            )
        return ticks
