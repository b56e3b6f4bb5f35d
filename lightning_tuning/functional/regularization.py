"""Penalties and constraints on weights, beside the loss; nothing here reads a value back to the host."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = [
    "add_elastic_net_gradients_",
    "decay_",
    "elastic_net",
    "renorm_units_",
    "soft_threshold_",
    "zero_counts",
]


def elastic_net(weights: Iterable[Tensor], l1: float, l2: float = 0.0) -> Tensor:
    r"""The penalty :math:`\lambda_1 \sum |w| + \lambda_2 / 2 \sum w^2`, in float32.

    Args:
        weights: any shapes and dtypes, one device; of a complex weight the absolute value counts.
        l1: in units of the loss per unit of a weight.
        l2: in units of the loss per square of one; with the half, so that its gradient is ``l2 * w``, as that of an
            optimizer's ``weight_decay``.

    Returns:
        0-d tensor; 0 for no weights.

    Example:
        >>> elastic_net([torch.tensor([3.0, -4.0])], l1=0.1, l2=0.1)
        tensor(1.9500)

    Source: Tibshirani 1996 (lasso); Zou & Hastie 2005 (elastic net).
    """
    parts: list[Tensor] = []
    with torch.no_grad():
        for weight in weights:
            size = weight.abs()
            absolute, square = size.sum(dtype=torch.float32), size.float().square().sum()
            parts.append(l1 * absolute + l2 / 2 * square)
    return torch.stack(parts).sum() if parts else torch.zeros(())


def add_elastic_net_gradients_(
    parameters: Iterable[Tensor], l1: float, l2: float = 0.0, *, scale: Tensor | None = None
) -> None:
    """Add the subgradient of :func:`elastic_net`, ``l1 * sign(w) + l2 * w``, to the gradients in place.

    At 0 the subgradient is 0. Parameters without a gradient are passed over.

    Args:
        parameters: with dense gradients.
        l1: see :func:`elastic_net`.
        l2: likewise.
        scale: by which the gradients were multiplied (a GradScaler's). Default: they were not.

    Raises:
        ValueError: for a sparse gradient, whose rows alone are known.

    Example:
        >>> weight = torch.tensor([2.0, 0.0, -1.0], requires_grad=True)
        >>> weight.grad = torch.zeros(3)
        >>> add_elastic_net_gradients_([weight], l1=0.5)
        >>> weight.grad
        tensor([ 0.5000,  0.0000, -0.5000])
    """
    with torch.no_grad():
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.is_sparse:
                raise ValueError(
                    f"`parameters` must have dense gradients, got a sparse one of shape {tuple(gradient.shape)}."
                )
            penalty = l1 * parameter.sgn()
            if l2:
                penalty += l2 * parameter
            gradient.add_(penalty if scale is None else penalty * scale.to(penalty.device, non_blocking=True))


def soft_threshold_(weight: Tensor, threshold: float | Tensor, shrink: float | Tensor = 1.0) -> None:
    r"""Take ``threshold`` off every weight's size, down to an exact 0, in place: the proximal step of an L1 penalty.

    :math:`w \leftarrow s \, \mathrm{sign}(w) \max(|w| - t, 0)`. After a gradient step with learning rate ``lr`` it is
    ISTA with ``threshold=lr * l1``; with ``shrink=1 / (1 + lr * l2)`` that of the elastic net.

    Args:
        weight: written in place.
        threshold: at least 0; a 0-d tensor may lie on the device.
        shrink: what remains is multiplied by it.

    Example:
        >>> weight = torch.tensor([1.0, -0.5, 0.1])
        >>> soft_threshold_(weight, 0.2)
        >>> weight
        tensor([ 0.8000, -0.3000,  0.0000])

    Source: Daubechies et al. 2004; Beck & Teboulle 2009 (ISTA).
    """
    with torch.no_grad():
        if weight.is_complex():
            size = weight.abs()
            weight.mul_(torch.where(size > threshold, 1 - threshold / size, 0.0) * shrink)
        else:
            weight.sub_(weight.clamp(min=-threshold, max=threshold)).mul_(shrink)  # type: ignore[arg-type]


def decay_(weight: Tensor, rate: float | Tensor) -> None:
    """Take the share ``rate`` off a weight in place: ``lr * weight_decay`` for decoupled decay, as in AdamW.

    Example:
        >>> weight = torch.tensor([1.0, -2.0])
        >>> decay_(weight, 0.1)
        >>> weight
        tensor([ 0.9000, -1.8000])

    Source: Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization.
    """
    with torch.no_grad():
        weight.mul_(1 - rate)


def renorm_units_(weight: Tensor, max_norm: float, dim: int = 0) -> None:
    """Scale each unit's incoming weights down to an L2 norm of ``max_norm``, where it is larger, in place.

    Args:
        weight: of at least two dimensions.
        max_norm: of one unit.
        dim: that counts the units: 0 for a linear layer and a convolution (default), 1 for a transposed convolution.

    Example:
        >>> weight = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
        >>> renorm_units_(weight, max_norm=1.0)
        >>> weight
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])

    Source: Srivastava et al. 2014, Dropout, section 5.1 and appendix A.2.
    """
    with torch.no_grad():
        weight.renorm_(2, dim, max_norm)


def zero_counts(weights: Iterable[Tensor], *, near: float = 1e-3) -> Tensor:
    """How sparse weights are: for each tensor, exact zeros, sizes below ``near`` times its largest, and elements.

    Returns:
        int64 of shape ``(tensors, 3)``; near zeros include the exact ones.

    Example:
        >>> zero_counts([torch.tensor([0.0, 1e-5, 2.0]), torch.zeros(2)])
        tensor([[1, 2, 3],
                [2, 2, 2]])
    """
    rows: list[Tensor] = []
    with torch.no_grad():
        for weight in weights:
            size = weight.abs()
            exact = (size == 0).sum()
            close = (size < near * size.max()).sum().maximum(exact) if size.numel() else exact
            rows.append(torch.stack([exact, close, torch.full_like(exact, size.numel())]))
    return torch.stack(rows) if rows else torch.zeros(0, 3, dtype=torch.int64)
