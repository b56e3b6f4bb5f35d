"""What the first layers read, and what the first loss is, in a few numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from lightning_tuning.rules._ops import RECURRENT_OPS, WEIGHT_OPS
from lightning_tuning.rules.unscaled_input import InputStatistics, is_loss_off
from lightning_tuning.trace import Op

__all__ = ["FirstLossProbe", "InputProbe"]

_MOST = 16
"""Layers looked at; more than that are no longer the entrances of a net, but a frozen part of it."""


class InputProbe:
    """Mean, standard deviation and ends of what those layers read that autograd does not follow: the batch's own."""

    names: Collection[str] = WEIGHT_OPS | RECURRENT_OPS

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int, Tensor]] = {}

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """See :class:`Probe`."""
        if len(self._seen) >= _MOST:
            return
        for value, tensor in zip(op.inputs, inputs, strict=False):
            if tensor.is_floating_point() and not isinstance(tensor, nn.Parameter):
                if not tensor.requires_grad and tensor.numel() > 1 and tensor.layout is torch.strided:
                    numbers = tensor.float()
                    mean = numbers.mean()  # torch.std_mean takes many times as long on the CPU
                    std = torch.linalg.vector_norm(numbers - mean) / math.sqrt(numbers.numel() - 1)
                    ends = torch.stack([mean, std, *numbers.aminmax()])
                    self._seen[op.index] = value, tensor.numel(), ends
                return

    def statistics(self, op: Op, value: int | None) -> InputStatistics | None:
        """Of ``value``, if that is what ``op`` was seen to read. A device sync."""
        known = self._seen.get(op.index)
        if known is None or known[0] != value:
            return None
        mean, std, low, high = known[2].tolist()
        return InputStatistics(mean, std, low, high, known[1])


@dataclasses.dataclass
class FirstLossProbe:
    """The losses that are averaged over the batch, and what a net that knows nothing would get.

    That is ln K for K classes, ln 2 for two, the mean square or size of a target of regression.
    """

    names: Collection[str] = (
        "cross_entropy",
        "nll_loss",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "mse_loss",
        "l1_loss",
        "smooth_l1_loss",
    )

    def __post_init__(self) -> None:
        self._losses: list[tuple[Tensor, Tensor | float]] = []

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """See :class:`Probe`."""
        if op.arguments.get("reduction", "mean") != "mean" or len(inputs) < 2 or outputs[0].numel() != 1:
            return
        prediction, target = inputs[:2]
        expected: Tensor | float
        if op.name in ("cross_entropy", "nll_loss"):
            expected = math.log(max(1, prediction.shape[1 if prediction.dim() > 1 else 0]))
        elif op.name.startswith("binary"):
            expected = math.log(2)
        elif op.name == "mse_loss":
            expected = target.float().square().mean()
        else:
            expected = target.float().abs().mean()
        self._losses.append((outputs[0].float().clone(), expected))

    @property
    def is_off(self) -> bool:
        """One of them is too large for a fresh net. A device sync."""
        return any(is_loss_off(float(loss), float(expected)) for loss, expected in self._losses)
