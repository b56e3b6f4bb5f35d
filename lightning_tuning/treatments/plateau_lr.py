"""Lower the learning rate when a metric stays flat."""

from __future__ import annotations

import copy
import datetime as dt
import sys
from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_tuning.functional.plateau_lr import check_plateau_arguments, plateau_lr_config
from lightning_tuning.rules._plateau import judge_plateau
from lightning_tuning.runtime import Desk
from lightning_tuning.runtime.plateau import PlateauKeeper, Watch
from lightning_tuning.treatments._configure import (
    entries_of,
    extend_configure_optimizers,
    optimizer_indices,
    optimizers_and_schedulers,
    pick,
    restore_configure_optimizers,
    scheduler_in,
)

__all__ = ["PlateauLR"]


class PlateauLR(PlateauKeeper):
    """Puts ``torch.optim.lr_scheduler.ReduceLROnPlateau`` into a run, without a change in the module.

    The rate is multiplied by ``factor`` when ``monitor`` has not improved for more than ``patience`` readings. A
    reading is taken once per epoch (the last validation in it), in every ``frequency``-th epoch; with
    ``interval="validation"`` at every validation.

    The scheduler goes through ``configure_optimizers``, so it is validated, stepped, logged (``LearningRateMonitor``)
    and checkpointed by Lightning itself. What Lightning loses on resume is put back: a run resumed from a checkpoint of
    an epoch's end (written before the plateau step of that epoch), of a validation, or from inside an epoch has the
    learning rates of an unbroken one. Each cut is said in the run's summary. Attached for a resume with other arguments
    than the checkpoint's, the new arguments hold; another ``monitor`` or ``mode`` starts with no best value.

    Limits. A checkpoint written after a batch and before the validation that follows it: Lightning 2.6 skips that
    validation on resume, so there is no reading (of an epoch: the summary says so). Resumed inside an epoch, a training
    metric is the mean of the batches since; Lightning keeps no running means. With manual optimization, where
    Lightning steps no scheduler, the callback does, at the same point between two epochs.

    Args:
        monitor: name of the logged metric to watch, ``"val_loss"`` or ``"train_loss_epoch"``.
        mode: ``"min"`` (default) if smaller is better, ``"max"`` if larger is. LT505 looks whether that can be.
        factor: new rate / old rate, in (0, 1). Default .5, where torch has .1: a plateau seen by mistake
            costs less then, and a true one is left after some three cuts all the same.
        patience: readings without improvement that are tolerated; the cut comes with the next one. Default 5.
            Lightning's ``EarlyStopping`` has 3, in which a rate cannot be tried: give it 12 or more (LT507).
        threshold: least improvement that counts. Default 1e-4.
        threshold_mode: ``"rel"`` (default: fraction of the best value) or ``"abs"``. Metrics below zero need ``"abs"``
            (LT506).
        cooldown: readings after a cut that are not counted. Default 0.
        min_lr: rates are not lowered below it; one number, or one per parameter group. Default 0.
        eps: smallest change of a rate that is carried out. Default 1e-8.
        interval: ``"epoch"`` (default, as everywhere in Lightning: patience counts epochs) or ``"validation"``: every
            validation is a reading, so that patience counts what ``EarlyStopping`` counts. The one to take with
            ``val_check_interval`` below one epoch if epochs are long, and the only one where validation is not tied to
            epochs (``check_val_every_n_epoch=None``).
        frequency: epochs per reading. Default ``None``: ``Trainer(check_val_every_n_epoch=...)``, so that no metric is
            read twice; 1 where no validation runs. Give 1 for a training metric if validation comes less often.
        optimizer: index of the optimizer to schedule, or several. Default ``None``: all of them (a GAN's two rates,
            that were balanced against each other, fall together).

    Raises:
        ValueError: for an argument outside of what is said above.
        MisconfigurationException: at the start of fit, if the module already configures a scheduler for the optimizer,
            if there is no optimizer of that index, if ``interval="epoch"`` meets validation that is not tied to epochs,
            or under ``barebones=True``, where nothing is logged; when a reading is due, if ``monitor`` was never
            logged, or differs between ranks.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[PlateauLR(monitor="val_loss", factor=0.5, patience=5)], logger=False)
        >>> PlateauLR(monitor="val_loss", factor=2.0)
        Traceback (most recent call last):
        ...
        ValueError: `factor` must be between 0 and 1, both excluded, got 2.0.

    Source: ``torch.optim.lr_scheduler.ReduceLROnPlateau``; the idea of a rate that falls when the error plateaus is as
        old
    as He et al. 2016, Deep residual learning for image recognition, section 3.4.
    """

    def __init__(
        self,
        monitor: str,
        *,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.5,
        patience: int = 5,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
        interval: Literal["epoch", "validation"] = "epoch",
        frequency: int | None = None,
        optimizer: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__("PlateauLR", judge_plateau)
        self.monitor = monitor
        self.arguments: dict[str, Any] = {
            "mode": mode,
            "factor": factor,
            "patience": patience,
            "threshold": threshold,
            "threshold_mode": threshold_mode,
            "cooldown": cooldown,
            "min_lr": min_lr,
            "eps": eps,
        }
        check_plateau_arguments(monitor, frequency=frequency, **self.arguments)
        if interval not in ("epoch", "validation"):
            raise ValueError(f"`interval` must be 'epoch' or 'validation', got {interval!r}.")
        if interval == "validation" and frequency is not None:
            raise ValueError(
                f"`frequency` counts epochs: with interval='validation' it must be None, got {frequency!r}."
            )
        self.interval = interval
        self.frequency = frequency
        self.optimizers = optimizer_indices(optimizer)
        self._own: list[ReduceLROnPlateau] = []
        self._fresh: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Extend ``configure_optimizers`` for this fit."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._own, self._fresh = [], []
        if trainer.barebones:
            raise MisconfigurationException(
                f"PlateauLR(monitor={self.monitor!r}): Trainer(barebones=True) turns `self.log` off, so there is no "
                f"{self.monitor} to watch. Use one of the two."
            )
        extend_configure_optimizers(pl_module, lambda configured: self._extend(trainer, pl_module, configured))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimizers are configured; the module gets its own method back."""
        restore_configure_optimizers(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise, if the start of fit failed."""
        restore_configure_optimizers(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Likewise, if the strategy never asked; and hold on to no optimizer."""
        super().teardown(trainer, pl_module, stage)
        restore_configure_optimizers(pl_module)
        self._own, self._fresh = [], []

    def watched(self, trainer: Trainer) -> Watch:
        """The schedulers that this callback configured, with its own arguments in force."""
        if not self._own:
            raise MisconfigurationException(
                f"PlateauLR: {type(trainer.strategy).__name__} makes its own optimizers and never called "
                "`configure_optimizers`."
            )
        self._hold_to_arguments(trainer)
        frequency = self._frequency(trainer) if self.interval == "epoch" else None
        return Watch(tuple(self._own), self.monitor, frequency)

    def tuning_state(self) -> dict[str, Any]:
        """With the metric that the best value belongs to."""
        state = super().tuning_state()
        return {**state, "monitor": self.monitor} if state else {}

    def _extend(self, trainer: Trainer, pl_module: LightningModule, configured: Any) -> Any:
        optimizers, schedulers = optimizers_and_schedulers(configured)
        frequency = self._frequency(trainer) if self.interval == "epoch" else sys.maxsize  # never: the callback steps
        self._own, self._fresh = [], []
        for optimizer in pick("PlateauLR", self.optimizers, optimizers):
            if known := entries_of(optimizer, schedulers):
                others = " Or give `optimizer=` the index of another one." if len(optimizers) > 1 else ""
                called = type(scheduler_in(known[0])).__name__
                raise MisconfigurationException(
                    f"PlateauLR: `configure_optimizers` already has {called} for optimizer "
                    f"{optimizers.index(optimizer)}, and two schedulers would overwrite each other's rates. Return the "
                    f"optimizer alone, or drop PlateauLR.{others}"
                )
            config = plateau_lr_config(optimizer, self.monitor, frequency=frequency, **self.arguments)
            if not pl_module.automatic_optimization:  # Lightning steps none of them and warns about these
                config = {key: config[key] for key in ("scheduler", "interval", "frequency")}
            schedulers = [*schedulers, config]
            self._own.append(config["scheduler"])
            self._fresh.append(copy.deepcopy(config["scheduler"].state_dict()))
        return optimizers, schedulers

    def _frequency(self, trainer: Trainer) -> int:
        if self.frequency is not None:
            return self.frequency
        if not trainer.enable_validation:
            return 1
        by_clock = isinstance(trainer.val_check_interval, (str, dict, dt.timedelta))
        if trainer.check_val_every_n_epoch is None or by_clock:
            raise MisconfigurationException(
                "PlateauLR(interval='epoch'): validation is not tied to epochs here (check_val_every_n_epoch="
                f"{trainer.check_val_every_n_epoch}, val_check_interval={trainer.val_check_interval}), so an epoch may "
                "have none. Use `interval='validation'`; or, for a training metric, `frequency=1`."
            )
        return trainer.check_val_every_n_epoch

    def _hold_to_arguments(self, trainer: Trainer) -> None:
        """``load_state_dict`` of a scheduler brings the checkpoint's arguments back too: put ours in force again."""
        is_other_metric = self._loaded.get("monitor", self.monitor) != self.monitor
        for scheduler, fresh in zip(self._own, self._fresh, strict=True):
            restored = copy.deepcopy(scheduler.state_dict())
            changed = [key for key in ("mode", *_NUMBERS) if restored[key] != fresh[key]]
            changed += ["monitor"] if is_other_metric else []
            if not changed:
                continue
            kept = ["last_epoch", "_last_lr"]
            if not {"mode", "monitor"} & set(changed):
                kept += ["best", "num_bad_epochs", "cooldown_counter"]
            scheduler.load_state_dict({**fresh, **{key: restored[key] for key in kept}})
            Desk.of(trainer).journal.note(
                f"PlateauLR goes on with other arguments than the checkpoint's: {', '.join(changed)}"
            )
        if is_other_metric:
            self.forget_readings()


_NUMBERS = ("factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lrs", "eps")
