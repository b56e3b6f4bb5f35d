"""Norms of gradients and parameters as tensors on their own device; nothing here reads a value back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["global_norm", "tensor_norms"]


def tensor_norms(tensors: Sequence[Tensor]) -> Tensor:
    """The L2 norm of each tensor, computed in float32 whatever the dtype.

    float32, because the norm of finite half-precision gradients overflows half precision (65504) long before the
    gradients do. Sparse tensors count with their coalesced values. All tensors are expected on one device.

    Args:
        tensors: any shapes and floating dtypes; an empty sequence gives an empty vector on the CPU.

    Returns:
        float32 vector of shape ``(len(tensors),)``; an empty tensor has norm 0, NaN and inf carry through.

    Example:
        >>> tensor_norms([torch.tensor([3.0, 4.0]), torch.zeros(2, 2)])
        tensor([5., 0.])
        >>> tensor_norms([torch.full((4,), 60000.0, dtype=torch.float16)])
        tensor([120000.])
    """
    if not tensors:
        return torch.zeros(0)
    dense = [
        t.coalesce().values() if t.is_sparse else t for t in (t.detach() if t.requires_grad else t for t in tensors)
    ]
    if any(t.dtype == torch.float64 for t in dense):  # the foreach kernel refuses to narrow, and 1e300 has no float32
        return torch.stack([torch.linalg.vector_norm(t, dtype=torch.float64).float() for t in dense])
    return torch.stack(torch._foreach_norm(dense, 2, torch.float32))


def global_norm(norms: Tensor) -> Tensor:
    """The L2 norm of everything, from the norms of the parts.

    Args:
        norms: vector of norms, as :func:`tensor_norms` gives it.

    Returns:
        0-d tensor on the same device; 0 for no parts.

    Example:
        >>> global_norm(torch.tensor([3.0, 4.0]))
        tensor(5.)
    """
    total: Tensor = torch.linalg.vector_norm(norms)
    return total
