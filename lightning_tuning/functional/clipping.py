"""Gradient clipping with bounds that lie on the device; nothing here reads a value back to the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["adaptive_gradient_clip_", "clip_coefficient", "clip_values_", "scale_gradients_", "unit_dims"]


def clip_coefficient(norm: Tensor, threshold: Tensor) -> Tensor:
    """What to multiply gradients by so that their norm is at most ``threshold``: ``min(1, threshold / norm)``.

    Returns:
        0-d tensor in (0, 1]; exactly 1 where ``norm`` is not finite (who has broken gradients has to leave them as they
        are) or ``threshold`` is not known (inf, NaN).

    Example:
        >>> [clip_coefficient(torch.tensor(norm), torch.tensor(2.0)).item() for norm in (4.0, 1.0, float("inf"))]
        [0.5, 1.0, 1.0]
    """
    ratio = threshold / norm
    return torch.where(norm.isfinite() & threshold.isfinite() & (ratio < 1), ratio, torch.ones_like(ratio))


def scale_gradients_(gradients: Iterable[Tensor], coefficient: Tensor) -> None:
    """Multiply ``gradients`` by a 0-d tensor in place, whatever their devices, dtypes and layouts.

    Of a sharded gradient (``DTensor``) the piece of this rank; the coefficient has to be the same on every rank.

    Example:
        >>> gradient = torch.tensor([3.0, 4.0])
        >>> scale_gradients_([gradient], torch.tensor(0.5))
        >>> gradient
        tensor([1.5000, 2.0000])
    """
    with torch.no_grad():
        for device, there in _by_device(gradients).items():
            torch._foreach_mul_(there, coefficient.to(device, non_blocking=True))


def clip_values_(gradients: Iterable[Tensor], bound: float | Tensor) -> None:
    """Clamp every element to ``[-bound, bound]`` in place; NaN stays NaN.

    ``torch.nn.utils.clip_grad_value_``, for a bound that may lie on a device, and for complex, sharded and (coalesced)
    sparse gradients: of a complex number real and imaginary part.

    Example:
        >>> gradient = torch.tensor([0.5, -3.0])
        >>> clip_values_([gradient], 1.0)
        >>> gradient
        tensor([ 0.5000, -1.0000])
    """
    with torch.no_grad():
        for device, there in _by_device(gradients).items():
            largest: Any = bound.to(device, non_blocking=True) if isinstance(bound, Tensor) else bound
            for gradient in there:
                real = torch.view_as_real(gradient) if gradient.is_complex() else gradient
                real.clamp_(min=-largest, max=largest)


def unit_dims(module: nn.Module) -> dict[int, tuple[int, ...]]:
    """For each parameter of ``module``, by ``id``: the dimensions over which a unit's incoming weights run.

    A row of a linear weight and a filter of a convolution are a unit's; of a transposed convolution, whose weight has
    its outputs second, everything but that. What has fewer than two dimensions is one unit.

    Example:
        >>> linear = nn.Linear(3, 4)
        >>> [unit_dims(linear)[id(p)] for p in (linear.weight, linear.bias)]
        [(1,), (0,)]
    """
    transposed = {id(child.weight) for child in module.modules() if isinstance(child, nn.modules.conv._ConvTransposeNd)}
    dims: dict[int, tuple[int, ...]] = {}
    for parameter in module.parameters():
        units = 1 if id(parameter) in transposed else 0
        every = range(parameter.dim())
        dims[id(parameter)] = tuple(every) if parameter.dim() < 2 else tuple(d for d in every if d != units)
    return dims


def adaptive_gradient_clip_(
    parameters: Iterable[Tensor],
    clipping: float = 0.01,
    *,
    eps: float = 1e-3,
    dims: Mapping[int, Sequence[int]] | None = None,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Bound each unit's gradient by a share of its weights: :math:`\|g_i\| \le \lambda \max(\|w_i\|, \epsilon)`.

    The bound follows the size of the weights, so that it means the same in every layer and at every scale of the loss:
    roughly, by how much one update may turn a unit at a learning rate of 1. A unit whose gradient is not finite is left
    as it is. Parameters without a gradient, or with a sparse one, are passed over.

    Args:
        parameters: whose gradients to clip in place. Not those of the last layer, say the authors.
        clipping: lambda. Default .01, the paper's for batches of 4096; smaller batches bear more, up to .16.
        eps: so that weights that start at zero can leave it. Default 1e-3, the paper's.
        dims: over which dimensions a unit's weights run, by ``id`` of the parameter, see :func:`unit_dims`; by default
            all but the first.
        scale: by which the gradients were multiplied (a GradScaler's). Default: they were not.

    Returns:
        two 0-d tensors on the first parameter's device: units that were clipped, and units with a gradient.

    Example:
        >>> weight = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        >>> weight.grad = torch.tensor([[0.0, 10.0], [1e-6, 0.0]])
        >>> adaptive_gradient_clip_([weight], 0.1)
        (tensor(1), tensor(2))
        >>> weight.grad
        tensor([[0.0000e+00, 5.0000e-01],
                [1.0000e-06, 0.0000e+00]])

    Source: Brock et al. 2021, High-performance large-scale image recognition without normalization, section 4.1.
    """
    clipped: list[Tensor] = []
    units = 0
    with torch.no_grad():
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is None or gradient.is_sparse or not gradient.numel():
                continue
            over = dims.get(id(parameter)) if dims is not None else None
            if over is None:
                over = tuple(range(min(1, parameter.dim() - 1), parameter.dim()))
            of_unit = {"dim": tuple(over), "keepdim": True, "dtype": _wide_dtype(gradient)}
            bound = clipping * torch.linalg.vector_norm(parameter, **of_unit).clamp(min=eps)
            bound = bound if scale is None else bound * scale.to(bound.device, non_blocking=True)
            coefficient = clip_coefficient(torch.linalg.vector_norm(gradient, **of_unit), bound)
            gradient.mul_(coefficient)
            clipped.append((coefficient < 1).sum())
            units += coefficient.numel()
    home = clipped[0].device if clipped else torch.device("cpu")
    count = torch.zeros((), dtype=torch.int64, device=home)
    for one in clipped:
        count = count + one.to(home, non_blocking=True)
    return count, torch.full((), units, dtype=torch.int64, device=home)


def _wide_dtype(tensor: Tensor) -> torch.dtype:
    """float32 at least, for half precision overflows."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _by_device(gradients: Iterable[Tensor]) -> dict[torch.device, list[Tensor]]:
    """The numbers themselves: of a sharded gradient the local piece, of a sparse one its values."""
    groups: dict[torch.device, list[Tensor]] = {}
    for gradient in gradients:
        local: Tensor = gradient.to_local() if hasattr(gradient, "to_local") else gradient
        local = local._values() if local.is_sparse else local
        groups.setdefault(local.device, []).append(local)
    return groups
