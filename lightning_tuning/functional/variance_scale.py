"""Layer-sequential unit variance: by how much a layer's weight has to be scaled."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

__all__ = ["VarianceScale", "fixup_scale", "unit_variance_scale"]


class VarianceScale(NamedTuple):
    """The factor of a weight, and the variance of its layer's output without and with it."""

    scale: float
    before: float
    after: float


def unit_variance_scale(
    output: Tensor, bias: Tensor | None = None, *, tol: float = 0.1, max_iter: int = 10
) -> VarianceScale | None:
    r"""The factor for the weight of a linear layer that gives its ``output`` unit variance.

    Mishkin & Matas (2016), algorithm 1: divide the weight by the output's standard deviation until the variance is
    within ``tol`` of 1. ``output`` is :math:`z + b` and ``z`` is proportional to the weight, so that the variance
    after each division is known from three moments, without another pass: :math:`s^2 Var(z) + 2 s Cov(z, b) + Var(b)`.
    With no bias, or one that is the same everywhere, the first division is exact. The moments are read: a device sync.

    Args:
        output: of the layer, over a whole batch; variance is taken over all of its elements.
        bias: what is added in it, in a shape that broadcasts to ``output``. Default: nothing.
        tol: largest distance of the variance from 1. Default .1, as in the paper.
        max_iter: divisions at most. Default 10: a bias that varies much can make 1 unreachable.

    Returns:
        The factor; ``None`` where none exists: the output is empty, constant or not finite.

    Raises:
        ValueError: for a ``tol`` that is not positive and finite, and a ``max_iter`` below 1.

    Example:
        >>> import torch
        >>> scale = unit_variance_scale(torch.tensor([[0.0, 4.0], [4.0, 0.0]]))
        >>> scale.scale, scale.before, scale.after
        (0.5, 4.0, 1.0)
    """
    if not (math.isfinite(tol) and tol > 0):
        raise ValueError(f"`tol` must be positive and finite, got {tol}.")
    if max_iter < 1:
        raise ValueError(f"`max_iter` must be at least 1, got {max_iter}.")
    if output.numel() == 0:
        return None
    total = output.detach().double()
    offset = total.new_zeros(()) if bias is None else bias.detach().double()
    product = total - offset
    offset = offset.expand_as(total)
    z, b = product - product.mean(), offset - offset.mean()
    var_z, cov, var_b = (float((one * other).mean()) for one, other in ((z, z), (z, b), (b, b)))
    before = var_z + 2 * cov + var_b
    noise = 1e-12 * float(product.square().mean())  # what rounding leaves of the variance of a constant
    if not (math.isfinite(before) and var_z > noise):
        return None
    scale, variance = 1.0, before
    for _ in range(max_iter):
        if abs(variance - 1) < tol or not variance > 0:
            break
        scale /= math.sqrt(variance)
        variance = scale * scale * var_z + 2 * scale * cov + var_b
    return VarianceScale(scale, before, variance)


def fixup_scale(branches: int, layers: int) -> float:
    r"""The factor of the weights inside a residual branch of a net without normalization.

    :math:`L^{-1 / (2m - 2)}`, with the branch's last layer set to zero: one step of SGD then changes the function by as
    much in a deep net as in a shallow one (Zhang et al. 2019, section 3). Without it the variance of the sum grows
    exponentially with depth.

    Args:
        branches: residual branches of the net, L.
        layers: weight layers in this branch, m. With one layer, the last, there is nothing to scale: 1.

    Raises:
        ValueError: for less than one of either.

    Example:
        >>> fixup_scale(branches=16, layers=2), fixup_scale(branches=16, layers=3), fixup_scale(branches=16, layers=1)
        (0.25, 0.5, 1.0)
    """
    if branches < 1 or layers < 1:
        raise ValueError(f"`branches` and `layers` must be at least 1, got {branches} and {layers}.")
    return 1.0 if layers == 1 else branches ** (-1.0 / (2 * layers - 2))
