"""What a run tells about its plateau scheduler: readings, rates, early stopping, why a metric is missing."""

from __future__ import annotations

import difflib
import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.optim.lr_scheduler import ReduceLROnPlateau

__all__ = [
    "checks_text",
    "cut_text",
    "is_at_last_batch",
    "learning_rates",
    "may_be_logged_later",
    "missing_metric",
    "reading",
    "reading_of_epoch",
    "refuse_disagreement",
    "stoppers",
]


def reading(trainer: Trainer, monitor: str) -> float | None:
    """The value of ``monitor`` that is there now. A device sync, once per epoch or checkpoint."""
    value = trainer.callback_metrics.get(monitor)
    return None if value is None else float(value)


def reading_of_epoch(trainer: Trainer, monitor: str, *, has_validated: bool) -> float | None:
    """The metric as it will be at the end of this epoch, whose last batch is done.

    Args:
        trainer: in the last batch of an epoch, or in the validation after it.
        monitor: name of the metric.
        has_validated: the validation after the last batch is done too.
    """
    # An epoch's mean over the training batches gets into `callback_metrics` only when the epoch has ended.
    of_training: dict[str, Any] = trainer.fit_loop.epoch_loop._results.metrics(on_step=False)["callback"]
    if monitor in of_training:
        return float(of_training[monitor])
    return reading(trainer, monitor) if has_validated else None


def is_at_last_batch(trainer: Trainer) -> bool:
    """Lightning's own condition for stepping the schedulers of an epoch: it was not cut short."""
    return trainer.is_last_batch or trainer.fit_loop.batch_idx + 1 == trainer.num_training_batches


def learning_rates(scheduler: ReduceLROnPlateau) -> list[float]:
    """The rates of its optimizer, one per parameter group."""
    return [float(group["lr"]) for group in scheduler.optimizer.param_groups]


def cut_text(trainer: Trainer, scheduler: ReduceLROnPlateau, before: list[float]) -> str:
    """``"the learning rate 0.1 -> 0.05"``, and of which optimizer if there are several; empty if no rate fell.

    Args:
        trainer: of the run.
        scheduler: that may have lowered rates.
        before: the rates before, one per parameter group; groups that were added since are no concern of its.
    """
    after = learning_rates(scheduler)[: len(before)]
    if not any(new < old for old, new in zip(before, after, strict=False)):
        return ""
    optimizers = trainer.optimizers
    index = next((i for i, optimizer in enumerate(optimizers) if optimizer is scheduler.optimizer), None)
    whose = "" if len(optimizers) < 2 or index is None else f" of optimizer {index}"
    return f"the learning rate{whose} {_rates_text(before)} -> {_rates_text(after)}"


def checks_text(count: int) -> str:
    """``"1 check"``, ``"2 checks"``."""
    return f"{count} check{'' if count == 1 else 's'}"


def _rates_text(rates: list[float]) -> str:
    """``"0.1"``, or ``"[0.1, 0.01]"`` if the groups differ."""
    texts = [f"{rate:.4g}" for rate in rates]
    return texts[0] if len(set(texts)) == 1 else f"[{', '.join(texts)}]"


def stoppers(trainer: Trainer, frequency: int | None) -> list[tuple[str, str, int, int]]:
    """Monitor, mode, patience and checks per plateau reading of each early stopping of ``trainer``.

    Args:
        trainer: of a fit whose data is set up.
        frequency: epochs per reading, ``None`` for one at every validation.
    """
    validations = _validations_per_reading(trainer, frequency)
    epochs = frequency or 1
    return [
        (
            stopper.monitor,
            stopper.mode,
            stopper.patience,
            epochs if stopper._check_on_train_epoch_end else validations,
        )
        for stopper in _callbacks(trainer)
        if isinstance(stopper, EarlyStopping)
    ]


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
    return callbacks


def _validations_per_reading(trainer: Trainer, frequency: int | None) -> int:
    every_epochs, every_batches = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if frequency is None or not every_epochs or not every_batches or math.isinf(every_batches):
        return 1
    per_epoch = max(1, int(trainer.num_training_batches // every_batches))
    return max(1, per_epoch * frequency // every_epochs)


def may_be_logged_later(trainer: Trainer, pl_module: LightningModule, asking: Callback) -> bool:
    """In ``on_train_epoch_end``: the module and the callbacks after ``asking`` have yet to run and may log there."""
    callbacks = _callbacks(trainer)
    later = callbacks[callbacks.index(asking) + 1 :]
    foreign = [callback for callback in later if not type(callback).__module__.startswith("lightning")]
    return is_overridden("on_train_epoch_end", pl_module) or any(
        is_overridden("on_train_epoch_end", callback, parent=Callback) for callback in foreign
    )


def missing_metric(trainer: Trainer, owner: str, monitor: str) -> MisconfigurationException:
    """To be raised when ``monitor`` was not logged: says what there is instead, and why it may be missing."""
    names = sorted(trainer.callback_metrics)
    there = ", ".join(repr(name) for name in names) or "none at all"
    said = [f"{owner}(monitor={monitor!r}) found no such metric in epoch {trainer.current_epoch}; there are: {there}."]
    if near := difflib.get_close_matches(monitor, names, n=1):
        said.append(f"Did you mean {near[0]!r}?")
    if not trainer.enable_validation:
        said.append(
            "No validation runs in this fit (no validation data, no `validation_step`, or `limit_val_batches=0`); a "
            "training metric can be watched instead, logged with `self.log(..., on_epoch=True)`."
        )
    said.append(f"Log it with `self.log({monitor!r}, ...)`.")
    return MisconfigurationException(" ".join(said))


def refuse_disagreement(trainer: Trainer, owner: str, monitor: str, value: float | None) -> None:
    """One small all-gather per reading, with several ranks: rates that differ between them tear the replicas apart.

    Raises:
        MisconfigurationException: on every rank, if they did not read the same value.
    """
    if trainer.world_size == 1:
        return
    own = torch.tensor(math.nan if value is None else value, device=trainer.strategy.root_device)
    everyone = [float(other) for other in trainer.strategy.all_gather(own).flatten()]
    if len({str(other) for other in everyone}) > 1:
        raise MisconfigurationException(
            f"{owner}(monitor={monitor!r}): the ranks read different values ({everyone}), and would go on at different "
            f"learning rates. Log it with `self.log({monitor!r}, ..., sync_dist=True)`."
        )
