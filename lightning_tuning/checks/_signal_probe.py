"""Measures what reaches the weight layers of the first step."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_tuning.rules._ops import RECURRENT_OPS, WEIGHT_OPS
from lightning_tuning.rules.signal_collapse import Signal
from lightning_tuning.trace import Op

__all__ = ["SignalProbe"]

_SAMPLES = 16
"""As many tell how different samples are."""
_FEWEST = 4


class SignalProbe:
    """Keeps, for each weight layer, mean square and variance between samples of what it is applied to.

    Which dimension holds the samples is not known here (a recurrent layer may have the time first), so the variance is
    taken over the first two of them, and :meth:`signals` decides.
    """

    names: Collection[str] = WEIGHT_OPS | RECURRENT_OPS

    def __init__(self) -> None:
        self._measured: dict[int, tuple[tuple[int, ...], list[Tensor]]] = {}

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Measure the input of one layer, on its device."""
        if not op.parameters:
            return  # a product of two activations
        value = next((t for t in inputs if not isinstance(t, nn.Parameter)), None)
        if value is None or not value.is_floating_point() or not 2 <= value.dim() <= 5 or value.layout != torch.strided:
            return
        numbers = []
        for dim in (0, 1) if value.dim() == 3 else (0,):
            samples = value.narrow(dim, 0, min(_SAMPLES, value.shape[dim])).float()
            mean = samples.mean(dim, keepdim=True)  # torch.var_mean takes eight times as long on the CPU
            numbers += [(samples - mean).square().mean(), mean.square().mean()]
        self._measured[op.index] = tuple(value.shape), numbers

    def signals(self, batch: Mapping[str, Tensor]) -> dict[int, Signal]:
        """What was measured, by index of the operation. A device sync.

        Args:
            batch: tensors of the batch; their first dimensions say how many samples there are.
        """
        sizes = {len(tensor) for tensor in batch.values() if tensor.dim()}
        kept = {
            index: numbers for index, (shape, numbers) in self._measured.items() if _samples(shape, sizes) >= _FEWEST
        }
        if not kept:
            return {}
        flat = [number for numbers in kept.values() for number in numbers]
        home = next((t.device for t in flat if t.device.type != "cpu"), flat[0].device)
        read = iter(torch.stack([t.to(home) for t in flat]).tolist())
        found = {}
        for index, numbers in kept.items():
            shape = self._measured[index][0]
            pairs = [(next(read), next(read)) for _ in numbers[::2]]
            variance, square = pairs[1] if len(pairs) > 1 and _time_first(shape, sizes) else pairs[0]
            total = variance + square
            found[index] = Signal(math.sqrt(variance / total) if total > 0 else 0.0, math.sqrt(total))
        return found


def _time_first(shape: tuple[int, ...], sizes: set[int]) -> bool:
    return len(shape) == 3 and shape[0] not in sizes and shape[1] in sizes


def _samples(shape: tuple[int, ...], sizes: set[int]) -> int:
    return shape[1] if _time_first(shape, sizes) else shape[0]
