"""Norms of gradients and parameters as tensors on their own device; nothing here reads a value back."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["global_norm", "join_norms", "separate_norms", "tensor_norms"]

_PLAIN = {(dtype, False) for dtype in (torch.float32, torch.bfloat16, torch.float16)}
_kind = operator.attrgetter("dtype", "is_sparse")


def separate_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The L2 norm of each tensor as :func:`tensor_norms` has it, as 0-d tensors where the tensors lie.

    For whoever reads them on the CPU: joining four of them takes as long as the norms of a small net.

    Args:
        tensors: any shapes, floating or complex dtypes, and devices.

    Example:
        >>> separate_norms([torch.tensor([3.0, 4.0]), torch.zeros(2, 2)])
        [tensor(5.), tensor(0.)]
    """
    if not tensors:
        return []
    kinds = set(map(_kind, tensors))
    if len(kinds) == 1 and kinds <= _PLAIN:  # nearly always; what follows costs several times as much
        return list(torch._foreach_norm(list(tensors), 2, torch.float32))
    plain = [_plain(t) for t in tensors]
    parts: dict[int, Tensor] = {}
    for device in {t.device for t in plain}:
        there = [i for i, t in enumerate(plain) if t.device == device]
        parts.update(zip(there, _norms([plain[i] for i in there]), strict=True))
    return [parts[i] for i in range(len(plain))]


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
    return join_norms(separate_norms(tensors))


def join_norms(norms: Sequence[Tensor]) -> Tensor:
    """What :func:`separate_norms` gave, as the vector that :func:`tensor_norms` gives.

    Example:
        >>> join_norms(separate_norms([torch.tensor([3.0, 4.0]), torch.zeros(2, 2)]))
        tensor([5., 0.])
    """
    if not norms:
        return torch.zeros(0)
    if len({n.get_device() for n in norms}) > 1:
        home = next(n.device for n in norms if n.device.type != "cpu")  # to the host a copy would wait
        norms = [n.to(home, non_blocking=True) for n in norms]
    together = torch.stack(list(norms))
    return together.detach() if together.requires_grad else together


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    tensor = tensor.coalesce().values() if tensor.is_sparse else tensor
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _norms(tensors: list[Tensor]) -> tuple[Tensor, ...]:
    if torch.float64 in {t.dtype for t in tensors}:  # the foreach kernel refuses to narrow, and 1e300 has no float32
        return tuple(torch.linalg.vector_norm(t, dtype=torch.float64).float() for t in tensors)
    norms: tuple[Tensor, ...] = torch._foreach_norm(list(tensors), 2, torch.float32)
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
