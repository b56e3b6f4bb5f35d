"""What the samples of a batch hold, in a few numbers each, computed on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_tuning.rules.non_finite_input import Row

__all__ = ["FeatureRange", "prints", "row_states"]

_MOST_ROWS = 4096
"""Of a longer tensor (points, edges) single samples are not told apart."""


def row_states(tensor: Tensor) -> Tensor | None:
    """One :class:`Row` per sample of a floating or complex tensor; ``None`` for what can't be judged.

    Two passes over the tensor and no copy of it. ``-inf`` together with a largest value of 0, or alone, is the usual
    additive mask of an attention, and counts as finite.
    """
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if not tensor.is_floating_point() or not _is_plain(tensor) or tensor.element_size() == 1:
        return None
    rows = _rows(tensor)
    low, high = rows.amin(1), rows.amax(1)
    minus = (low == -math.inf) & (high != 0) & (high.abs() != math.inf)
    return low.isnan() * int(Row.NAN) + (high == math.inf) * int(Row.INF) + minus * int(Row.MINUS_INF)


def prints(tensor: Tensor) -> list[Tensor] | None:
    """Smallest, largest, sum and a fixed projection of each sample: equal samples have equal ones, others do not."""
    tensor = tensor.detach()
    if not _is_plain(tensor) or tensor.is_complex() or tensor.dim() == 0 or len(tensor) > _MOST_ROWS:
        return None
    rows = tensor.reshape(len(tensor), -1).to(torch.float32)
    places = torch.arange(rows.shape[1], device=rows.device, dtype=torch.float32)
    return [rows.amin(1), rows.amax(1), rows.sum(1), rows @ torch.cos(places * 2.399963)]  # the golden angle: no period


class FeatureRange:
    """Smallest and largest value of each feature over several batches, on the device.

    Args:
        axis: of the features.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.samples = 0
        self.is_of_maps = False
        self._ends: tuple[Tensor, Tensor] | None = None

    def take(self, tensor: Tensor) -> None:
        """One more batch; one of another number of features is passed over."""
        others = [axis for axis in range(tensor.dim()) if axis != self.axis]
        if not others or not _is_plain(tensor) or tensor.is_complex():
            return
        values = tensor.detach()
        values = values.float() if values.element_size() == 1 and values.is_floating_point() else values
        low, high = values.amin(others), values.amax(others)
        if self._ends is not None:
            if self._ends[0].shape != low.shape:
                return
            low, high = torch.minimum(self._ends[0], low), torch.maximum(self._ends[1], high)
        self._ends = low, high
        self.is_of_maps = tensor.dim() > self.axis + 1
        self.samples += len(tensor)

    @property
    def ends(self) -> tuple[Tensor, Tensor] | None:
        """Smallest and largest, if anything was seen."""
        return self._ends


def _rows(tensor: Tensor) -> Tensor:
    one = tensor.dim() == 0 or len(tensor) > _MOST_ROWS
    return tensor.reshape(1 if one else len(tensor), -1)


def _is_plain(tensor: Tensor) -> bool:
    known = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized and not tensor.is_meta
    return known and math.prod(tensor.shape) > 0
