"""Norms of gradients and parameters as tensors on their own device; nothing here reads a value back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["global_norm", "tensor_norms"]


def tensor_norms(tensors: Sequence[Tensor]) -> Tensor:
    """The L2 norm of each tensor, computed in float32 whatever the dtype.

    float32, because the norm of finite half-precision gradients overflows half precision (65504) long before the
    gradients do. Sparse tensors count with their coalesced values; on an accelerator coalescing waits for the device,
    which alone knows how many there are.

    Args:
        tensors: any shapes, floating or complex dtypes, and devices; no tensors give an empty vector on the CPU.

    Returns:
        float32 vector of shape ``(len(tensors),)``, on the tensors' device (the first accelerator among several); an
        empty tensor has norm 0, NaN and inf carry through.

    Example:
        >>> tensor_norms([torch.tensor([3.0, 4.0]), torch.zeros(2, 2)])
        tensor([5., 0.])
        >>> tensor_norms([torch.full((4,), 60000.0, dtype=torch.float16)])
        tensor([120000.])
    """
    if not tensors:
        return torch.zeros(0)
    plain = [_plain(t) if t.requires_grad or t.is_sparse or t.is_complex() else t for t in tensors]
    home = plain[0].device
    if all(t.is_cpu for t in plain) or all(t.device == home for t in plain):
        return torch.stack(_norms(plain))
    home = next(t.device for t in plain if t.device.type != "cpu")  # to the host a copy would wait, from it it does not
    norms: dict[int, Tensor] = {}
    for device in {t.device for t in plain}:
        there = [i for i, t in enumerate(plain) if t.device == device]
        norms.update(zip(there, _norms([plain[i] for i in there]), strict=True))
    return torch.stack([norms[i].to(home, non_blocking=True) for i in range(len(plain))])


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach() if tensor.requires_grad else tensor
    tensor = tensor.coalesce().values() if tensor.is_sparse else tensor
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _norms(tensors: list[Tensor]) -> tuple[Tensor, ...]:
    if torch.float64 in {t.dtype for t in tensors}:  # the foreach kernel refuses to narrow, and 1e300 has no float32
        return tuple(torch.linalg.vector_norm(t, dtype=torch.float64).float() for t in tensors)
    norms: tuple[Tensor, ...] = torch._foreach_norm(tensors, 2, torch.float32)
    return norms


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
