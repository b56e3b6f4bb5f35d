"""Which of the logged metrics are the validation loss and the accuracies, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["accuracy_name", "loss_name"]

_VALIDATION = re.compile(
    r"(^|[_/.\- ])(val|valid|validation|dev|eval)([_/.\- ]|$)|^(val|valid)(?=[a-z])", re.IGNORECASE
)
_TRAINING = re.compile(r"(^|[_/.\- ])(train|training|fit)([_/.\- ]|$)|^train(?=[a-z])", re.IGNORECASE)
_LOSS = re.compile(r"loss|nll", re.IGNORECASE)
_ACCURACY = re.compile(r"(^|[_/.\- ]|val|train|valid)acc(uracy)?([_/.\- ]|$)", re.IGNORECASE)


def loss_name(names: Iterable[str]) -> str | None:
    """The validation loss: the only name that says so, or of several the plainest (``val_loss``); else ``None``.

    Example:
        >>> loss_name(["train_loss", "val_acc", "val_loss"]), loss_name(["loss/valid", "val_f1"]), loss_name(["val_f1"])
        ('val_loss', 'loss/valid', None)
    """
    return _plainest([name for name in names if _VALIDATION.search(name) and _LOSS.search(name)])


def accuracy_name(names: Iterable[str], *, training: bool) -> str | None:
    """Likewise the accuracy, of training or validation; of training the mean over the epoch, where there is one.

    Example:
        >>> names = ["train_acc_step", "train_acc_epoch", "val_accuracy", "val_top5"]
        >>> accuracy_name(names, training=True), accuracy_name(names, training=False)
        ('train_acc_epoch', 'val_accuracy')
    """
    of = _TRAINING if training else _VALIDATION
    found = [name for name in names if of.search(name) and _ACCURACY.search(name)]
    return _plainest([name for name in found if name.endswith("_epoch")] or found)


def _plainest(names: list[str]) -> str | None:
    return min(names, key=lambda name: (len(name), name), default=None)
