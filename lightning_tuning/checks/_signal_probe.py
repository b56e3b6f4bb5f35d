"""Measures what reaches the weight layers of the first step."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tuning.rules._ops import RECURRENT_OPS, WEIGHT_OPS
from lightning_tuning.rules.signal_collapse import Signal
from lightning_tuning.trace import Op
from lightning_tuning.trace.batch import batch_tensors

__all__ = ["SignalProbe"]

_SAMPLES = 16
"""As many tell how different samples are."""
_FEWEST = 4


class SignalProbe:
    """Keeps, for each weight layer, mean square and variance between samples of what it is applied to.

    Which of the first two dimensions holds the samples, for a recurrent layer may have the time first, is told by the
    sizes of the batch.
    """

    names: Collection[str] = WEIGHT_OPS | RECURRENT_OPS

    def __init__(self) -> None:
        self._measured: dict[int, tuple[Tensor, int, Tensor, int]] = {}
        self._sizes: set[int] = set()

    def expect(self, batch: Any) -> None:
        """The step that is to be seen is given ``batch``; its first dimensions say how many samples there are."""
        self._sizes = {len(tensor) for _, tensor in batch_tensors(batch) if tensor.dim()}

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Measure the input of one layer, on its device."""
        if not op.parameters:
            return  # a product of two activations
        value = next((t for t in inputs if not isinstance(t, nn.Parameter)), None)
        if value is None or not value.is_floating_point() or not 2 <= value.dim() <= 5 or value.layout != torch.strided:
            return
        dim = 1 if value.dim() == 3 and value.shape[0] not in self._sizes and value.shape[1] in self._sizes else 0
        if value.shape[dim] < _FEWEST:
            return
        samples = value.narrow(dim, 0, min(_SAMPLES, value.shape[dim])).float()
        mean = samples.mean(dim, keepdim=True)  # torch.var_mean takes eight times as long on the CPU
        of_all, of_means = torch.linalg.vector_norm(samples - mean), torch.linalg.vector_norm(mean)
        self._measured[op.index] = of_all, samples.numel(), of_means, mean.numel()

    def signals(self) -> dict[int, Signal]:
        """What was measured, by index of the operation. A device sync."""
        if not self._measured:
            return {}
        flat = [norm for of_all, _, of_means, _ in self._measured.values() for norm in (of_all, of_means)]
        home = next((t.device for t in flat if t.device.type != "cpu"), flat[0].device)
        read = iter(torch.stack([t.to(home) for t in flat]).tolist())
        found = {}
        for index, (_, elements, _, means) in self._measured.items():
            variance, square = next(read) ** 2 / elements, next(read) ** 2 / means
            total = variance + square
            found[index] = Signal(math.sqrt(variance / total) if total > 0 else 0.0, math.sqrt(total))
        return found
