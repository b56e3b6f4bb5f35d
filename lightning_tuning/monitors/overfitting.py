"""LT804: does the net learn its samples by heart?"""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from lightning_tuning.measure import Landing, Reading
from lightning_tuning.monitors._validation_metrics import accuracy_name, loss_name
from lightning_tuning.rules.over_fitting import OverfittingJudge, Remedies, Validation, layer_without_dropout
from lightning_tuning.runtime import Desk, Sparing, TuningCallback
from lightning_tuning.trace import Graph

__all__ = ["OverfittingMonitor"]


class OverfittingMonitor(TuningCallback):
    """Watches the validation loss against the training loss, and says when a net learns its samples by heart (LT804).

    Why: from the best validation on every epoch makes the net worse at what it is for, while the training loss looks
    better than ever. Said once the last ``patience`` validations were all clearly above the best one while the training
    loss fell on, and the gap is large (.10 of accuracy, .07 above 90 %; without accuracies one and a half times the
    loss). Names what the run lacks: early stopping, dropout before the widest layer, weight decay, augmentation.

    It reads what the module logs, by name (``val_loss``, ``loss/valid``; ``train_acc``, ``val_acc``), after each
    validation; where no validation loss is logged it says nothing. Nothing is said in the first epoch, whose samples
    are all new (pretraining), under ``overfit_batches`` and ``fast_dev_run``, of the sanity check, under manual
    optimization and with several optimizers. Changes nothing; numbers on an accelerator are read one validation later.

    Args:
        patience: validations since the best one. Default 5.
        val_loss: name of the metric, if it is not to be found by itself. Default ``None``.

    Raises:
        ValueError: if ``patience`` is less than 2.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[OverfittingMonitor()], logger=False, accelerator="cpu")

    Source: Prechelt 1998, Early Stopping - But When?; Srivastava et al. 2014, Dropout.
    """

    thresholds = (("LT804", "patience"),)

    def __init__(self, patience: int = 5, val_loss: str | None = None) -> None:
        if type(patience) is not int or patience < 2:
            raise ValueError(f"`patience` must be a whole number of at least 2, got {patience!r}.")
        self.patience = patience
        self.val_loss = val_loss
        self._begin()

    def _begin(self) -> None:
        self._judge = OverfittingJudge(self.patience)
        self._landing = Landing()
        self._sum, self._count = 0.0, 0
        self._layer = ""
        self._remedies = Remedies()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Subscribe to the losses; a new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._begin()
        desk = Desk.of(trainer)
        desk.watch_loss()
        desk.meter.subscribe(self._take)
        desk.request_trace(self._know)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send this validation's numbers on their way, and judge those that have landed."""
        desk = Desk.of(trainer)
        if trainer.state.fn != "fit" or trainer.sanity_checking or desk.progress.mute or not _counts(trainer):
            return
        with Sparing(desk.journal, self):
            self._landing.collect()
            self._send(trainer)
            self._landing.collect()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the last validation."""
        with Sparing(Desk.of(trainer).journal, self):
            self._landing.collect(wait=True)

    def tuning_state(self) -> dict[str, Any]:
        """The validations so far. A device sync: for checkpoints."""
        self._landing.collect(wait=True)
        return {"judge": self._judge.state_dict(), "losses": [self._sum, self._count]}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self._judge.load_state_dict(state["judge"])
        self._sum, self._count = state["losses"]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_landing": Landing()}  # it is of this process

    def _know(self, trainer: Trainer, pl_module: LightningModule, graph: Graph) -> None:
        with Sparing(Desk.of(trainer).journal, self):
            self._layer = graph.answer(layer_without_dropout)

    def _take(self, reading: Reading) -> None:
        if reading.loss is not None and abs(reading.loss) < math.inf:
            self._sum += reading.loss
            self._count += 1

    def _send(self, trainer: Trainer) -> None:
        """What was logged, if it is there, with the mean of the training losses since the last validation."""
        metrics = trainer.callback_metrics
        name = self.val_loss or loss_name(metrics)
        if name is None or name not in metrics or not self._count:
            return
        is_repeat = trainer.current_epoch > 0
        step, train_loss = trainer.global_step, self._sum / self._count
        self._sum, self._count = 0.0, 0
        self._remedies = self._what_is_there(trainer)
        accuracies = [metrics.get(accuracy_name(metrics, training=training) or "") for training in (True, False)]
        nothing = torch.tensor(math.nan)
        numbers: list[Tensor] = [metrics[name], *(nothing if one is None else one for one in accuracies)]

        def receive(landed: list[list[float]]) -> None:
            (val_loss,), (train_acc,), (val_acc,) = landed
            self._said(trainer, Validation(step, train_loss, val_loss, train_acc, val_acc), is_repeat=is_repeat)

        self._landing.send([number.detach().reshape(1) for number in numbers], receive)

    def _said(self, trainer: Trainer, validation: Validation, *, is_repeat: bool) -> None:
        finding = self._judge.judge(validation, self._remedies, is_repeat=is_repeat)
        if finding is not None:
            journal = Desk.of(trainer).journal
            journal.report(finding, step=validation.step, epoch=trainer.current_epoch)

    def _what_is_there(self, trainer: Trainer) -> Remedies:
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
        return Remedies(
            layer=self._layer,
            has_decay=any(float(group.get("weight_decay") or 0) > 0 for group in groups),
            has_augmentation=_transforms(getattr(trainer.train_dataloader, "dataset", None)),
            stops_early=any(isinstance(callback, EarlyStopping) for callback in callbacks),
        )


def _counts(trainer: Trainer) -> bool:
    """Whether nobody over-fits on purpose."""
    return not (trainer.overfit_batches or trainer.fast_dev_run)  # type: ignore[attr-defined]  # set by a connector


def _transforms(dataset: Any) -> bool:
    """Whether the data set, or one that it is a part of, transforms its items."""
    for _ in range(3):
        if any(getattr(dataset, name, None) is not None for name in ("transform", "transforms", "augment")):
            return True
        dataset = getattr(dataset, "dataset", None)
    return False
