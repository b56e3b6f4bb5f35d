"""Losses and targets of some batches, on their way to the host."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_tuning.measure import Landing
from lightning_tuning.rules._baseline import LossForm, Sample, TargetMoments
from lightning_tuning.trace import batch_tensors

__all__ = ["TargetReader"]

_MOST = 8192
"""Class targets of a batch that are counted; the first ones tell as much as all."""


class TargetReader:
    """Measures the targets of a batch on their device, and lands them together with the loss; nothing waits.

    Args:
        form: of the loss; one with a ``term`` and a ``target``.

    Attributes:
        moments: what has landed.
    """

    def __init__(self, form: LossForm) -> None:
        self._form = form
        self._landing = Landing()
        self.moments = TargetMoments("" if form.term is None else form.term.kind, form.factor)

    def send(self, loss: Tensor, batch: Any, *, divided_by: int) -> None:
        """Send a batch's numbers off, and take in what has landed of others."""
        self._landing.collect()
        target = next((tensor for path, tensor in batch_tensors(batch) if path == self._form.target), None)
        if target is None or self._form.term is None or not target.numel() or target.is_complex():
            return
        loss = loss.detach().reshape(1)
        if self._form.classes:
            if target.is_floating_point():
                return
            counts = _counts(target, self._form.classes, self._form.term.ignore_index)
            self._landing.send([loss, counts], lambda numbers: self._take_counts(numbers, divided_by))
            return
        size, real = target.numel(), target.detach().float()
        sums = torch.stack([real.sum(), real.square().sum()])
        self._landing.send([loss, sums], lambda numbers: self._take_sums(numbers, size, divided_by))

    def flush(self) -> None:
        """Take in everything. A device sync: for the end of a run."""
        self._landing.collect(wait=True)

    def _take_sums(self, numbers: list[list[float]], size: int, divided_by: int) -> None:
        (loss,), (total, squares) = numbers
        self.moments.add(Sample(loss * divided_by, size, total, squares))

    def _take_counts(self, numbers: list[list[float]], divided_by: int) -> None:
        loss, counts = numbers[0][0] * divided_by, numbers[1]
        self.moments.add(Sample(loss, sum(counts), counts=tuple(counts)))


def _counts(target: Tensor, classes: int, ignored: int) -> Tensor:
    """How many of each class; by comparison, which is deterministic everywhere."""
    flat = target.detach().reshape(-1)[:_MOST]
    hits = flat.unsqueeze(1) == torch.arange(classes, device=flat.device)
    if 0 <= ignored < classes:
        hits &= (flat != ignored).unsqueeze(1)
    return hits.sum(0).float()
