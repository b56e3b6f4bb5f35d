"""What the targets of a loss hold, looked at before the loss can fail on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from lightning_tuning.rules.target_out_of_range import BINARY, CLASSES, TargetRange
from lightning_tuning.trace import Op

__all__ = ["TargetProbe"]


class TargetProbe:
    """Counts the targets out of range of every loss that takes classes or probabilities.

    A class out of range is an ``IndexError`` on the CPU, and on CUDA an assertion after which nothing can be read from
    the device: the numbers are read before the loss runs, a device sync for each loss of the first step.
    """

    names: Collection[str] = CLASSES | BINARY

    def __init__(self) -> None:
        self._found: list[tuple[TargetRange, int]] = []

    def foresee(self, op: Op, inputs: Sequence[Tensor]) -> None:
        """See :class:`EarlyProbe`."""
        if len(inputs) < 2 or not all(t.layout is torch.strided and t.numel() for t in inputs[:2]):
            return
        prediction, target = inputs[:2]
        if op.name in BINARY:
            self._note(op, target, bad=(target < 0) | (target > 1), counts=None, classes=None)
        elif not (target.is_floating_point() or target.is_complex() or prediction.dtype == torch.long):
            classes = prediction.shape[1 if prediction.dim() > 1 else 0]
            counts = target != int(op.arguments.get("ignore_index", -100))
            self._note(op, target, bad=counts & ((target < 0) | (target >= classes)), counts=counts, classes=classes)

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Nothing more is to be seen after."""

    def found(self, batch: Mapping[str, Tensor]) -> list[tuple[TargetRange, str]]:
        """What was seen of each loss with bad targets, and the tensor of ``batch`` that they are, ``""`` for none."""
        names = {_storage(tensor): name for name, tensor in batch.items()}
        return [(found, names.get(storage, "")) for found, storage in self._found]

    def _note(self, op: Op, target: Tensor, *, bad: Tensor, counts: Tensor | None, classes: int | None) -> None:
        if not bool(bad.any()):
            return
        values = target if counts is None else target[counts]
        first = int(bad.reshape(len(bad) if bad.dim() else 1, -1).any(dim=1).nonzero()[0])
        found = TargetRange(
            op, classes, float(values.min()), float(values.max()), int(bad.sum()), values.numel(), first
        )
        self._found.append((found, _storage(target)))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else 0
