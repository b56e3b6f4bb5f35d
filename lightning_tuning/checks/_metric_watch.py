"""Whether those who wait for a metric wait for the right thing (LT505, LT506, LT507)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_tuning.findings import Finding
from lightning_tuning.rules._plateau import judge_plateau
from lightning_tuning.rules.plateau_mode import better_direction, contradicts_name, contradicts_observation
from lightning_tuning.runtime import Desk
from lightning_tuning.runtime._plateau_facts import reading, stoppers
from lightning_tuning.runtime.plateau import PlateauKeeper

__all__ = ["MetricWatch"]

_ENOUGH_READINGS = 20
"""Epochs after which a metric whose direction nobody can tell from its name has had its chance."""


class MetricWatch:
    """Judges the plateau schedulers and early stoppings of a run: by their set-up first, then at every epoch's end.

    What :class:`~lightning_tuning.PlateauLR` and its mixin keep, they judge themselves.

    Args:
        trainer: before the first batch of the fit.
        readings: of an earlier part of the run, by metric; added to in place.
        report: takes the findings.
    """

    def __init__(self, trainer: Trainer, readings: dict[str, list[float]], report: Callable[[Finding], None]) -> None:
        self._readings = readings
        self._report = report
        self._plateaus = list(_own_plateaus(trainer))
        watched = {config.monitor for config in self._plateaus} | set(_kept_metrics(trainer))
        self._stoppers = [stopper for stopper in _of_type(trainer, EarlyStopping) if stopper.monitor not in watched]
        for finding in self._by_name(trainer):
            report(finding)
        self._judge(trainer)

    @property
    def metrics(self) -> set[str]:
        """The metrics whose values matter: of relative thresholds, and those whose names do not say which way is up."""
        return {c.monitor for c in self._plateaus if c.scheduler.threshold_mode == "rel" or _is_unclear(c.monitor)} | {
            stopper.monitor for stopper in self._stoppers if _is_unclear(stopper.monitor)
        }

    def look(self, trainer: Trainer, *_: Any) -> bool:
        """At an epoch's end: take the readings; true once there is nothing to wait for."""
        for metric in self.metrics:
            value = reading(trainer, metric)
            if value is not None:
                self._readings[metric] = [*self._readings.get(metric, ())[: _ENOUGH_READINGS - 1], value]
        self._judge(trainer)
        waits_for_sign = any(c.scheduler.threshold_mode == "rel" for c in self._plateaus)
        return not waits_for_sign and trainer.current_epoch >= _ENOUGH_READINGS

    def _by_name(self, trainer: Trainer) -> Iterator[Finding]:
        watchers = [*_of_type(trainer, EarlyStopping), *_of_type(trainer, ModelCheckpoint)]
        for watcher in watchers:
            if isinstance(watcher.monitor, str) and getattr(watcher, "save_top_k", 1) != 0:
                owner = "EarlyStopping" if isinstance(watcher, EarlyStopping) else "ModelCheckpoint"
                if (found := contradicts_name(owner, watcher.monitor, watcher.mode)) is not None:
                    yield found

    def _judge(self, trainer: Trainer) -> None:
        is_learning = Desk.of(trainer).progress.state in ("learning", "converged")
        for config in self._plateaus:
            scheduler = config.scheduler
            for finding in judge_plateau(
                "ReduceLROnPlateau",
                config.monitor,
                mode=scheduler.mode,
                patience=scheduler.patience,
                threshold=scheduler.threshold,
                threshold_mode=scheduler.threshold_mode,
                stoppers=stoppers(trainer, config.frequency) if config.interval == "epoch" else (),
                readings=self._readings.get(config.monitor, ()),
                is_learning=is_learning,
            ):
                self._report(finding)
        for stopper in self._stoppers:
            values = self._readings.get(stopper.monitor, ())
            found = contradicts_observation(
                "EarlyStopping", stopper.monitor, stopper.mode, values, is_learning=is_learning
            )
            if found is not None:
                self._report(found)


def _is_unclear(metric: str) -> bool:
    return better_direction(metric) is None


def _of_type(trainer: Trainer, kind: type[Callback]) -> list[Any]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
    return [callback for callback in callbacks if isinstance(callback, kind)]


def _own_plateaus(trainer: Trainer) -> Iterator[Any]:
    """The configurations of plateau schedulers that Lightning steps and nobody of ours keeps."""
    module = trainer.lightning_module
    if not module.automatic_optimization:
        return
    kept = [id(scheduler) for keeper in _of_type(trainer, PlateauKeeper) for scheduler in keeper.kept.schedulers]
    for config in trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, ReduceLROnPlateau) and config.monitor and id(config.scheduler) not in kept:
            yield config


def _kept_metrics(trainer: Trainer) -> list[str]:
    return [keeper.kept.monitor for keeper in _of_type(trainer, PlateauKeeper)]
