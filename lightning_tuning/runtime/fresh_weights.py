"""Whether the values of a weight or bias are torch's own draws, or somebody's work."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["is_set_bias", "is_set_weight"]


def is_set_weight(weight: Tensor, default_bound: float) -> bool:
    """Whether ``weight``, of a layer of torch's, was written to since the layer was built.

    Torch's layers write to their weights once, and count it; loading, training and initialising by hand write again.
    A copy (``deepcopy``) starts to count anew: there a value outside of the range of torch's own draws gives it away.
    No training leaves constants or NaN. Reads values.

    Args:
        weight: not empty.
        default_bound: no weight that torch has filled is larger.
    """
    low, high = (float(edge) for edge in torch.aminmax(weight.detach()))
    if low == high or math.isnan(low):
        return False
    return weight._version > 1 or max(-low, high) > _rounded_up(default_bound, weight)


def is_set_bias(bias: Tensor, default_bound: float) -> bool:
    """The same of a bias; there a constant is somebody's work too (a prior on rare classes), if it is not 0."""
    if bias.numel() == 0 or not bias.is_floating_point():
        return False
    low, high = (float(edge) for edge in torch.aminmax(bias.detach()))
    if low == high == 0.0 or math.isnan(low):
        return False
    is_constant = low == high and bias.numel() > 2  # two draws of bfloat16 may well be the same
    return is_constant or bias._version > 1 or max(-low, high) > _rounded_up(default_bound, bias)


def _rounded_up(bound: float, values: Tensor) -> float:
    return bound * (1 + 4 * torch.finfo(values.dtype).eps)
