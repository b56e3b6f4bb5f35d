"""The labels of the first batches, as they pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_tuning.checks._parcels import Parcels
from lightning_tuning.trace import batch_tensors

__all__ = ["LabelReader"]

_MOST = 8192
"""Labels of a batch; more are no labels of samples."""


class LabelReader:
    """Reads one tensor of each batch by its key path.

    Args:
        name: key path of the labels.
        parcels: takes them to the host.
        take: is given each batch's labels, and how many batches came before it.
    """

    def __init__(self, name: str, parcels: Parcels, take: Callable[[list[int], int], None]) -> None:
        self.name = name
        self._parcels = parcels
        self._take = take

    def read(self, batch: Any, number: int) -> None:
        """Send the labels of this batch off."""
        labels = next((tensor for path, tensor in batch_tensors(batch) if path == self.name), None)
        if labels is None or not is_label(labels):
            return
        self._parcels.put([labels], lambda numbers: self._take([int(n) for n in numbers[0]], number))


def is_label(tensor: Tensor) -> bool:
    """Whole numbers, one for each sample."""
    is_whole = not tensor.is_floating_point() and not tensor.is_complex() and tensor.layout is torch.strided
    return is_whole and tensor.dim() > 0 and tensor.numel() == len(tensor) <= _MOST
