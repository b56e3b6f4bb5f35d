"""A number that two tensors share if, and practically only if, they are equal bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fingerprint"]

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, odd: consecutive places land far apart
_MIXER = -4658895280553007687  # of the splitmix64 generator, odd
_LOW = 0xFFFFFFFF

_PIECE = 1 << 20
"""Words that are mixed at a time: some 16 MiB of scratch memory, whatever the size of the tensor."""

_AS_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def fingerprint(tensor: Tensor) -> Tensor:
    """A 64-bit hash of the bits of ``tensor`` in their order, computed where they are.

    The bits are read as 64-bit words, each mixed with its place by a bijection, and the results summed with wraparound.
    So a change inside a single word (8 bytes) never goes unnoticed, any other with a probability of about 2**-64;
    swapped elements are a change, and so are ``0.0`` and ``-0.0`` or two different NaN. Against an adversary it is
    worth nothing. Shape, strides and dtype are not hashed: compare tensors of one shape and dtype.

    Price: some eight passes over the tensor, without a host read.

    Args:
        tensor: any dtype (of one to sixteen bytes), shape, strides and device; not sparse.

    Returns:
        0-d int64 tensor on the same device; 0 for a tensor without elements.

    Example:
        >>> a = torch.tensor([1.0, 2.0, 3.0])
        >>> bool(fingerprint(a) == fingerprint(a.clone()))
        True
        >>> bool(fingerprint(a) == fingerprint(a.flip(0)))
        False
    """
    words, rest = _words(tensor.detach())
    total = _sum_of_mixed(words, start=0)
    return total if rest is None else total + _sum_of_mixed(rest, start=len(words))


def _words(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    """The bits as int64 words, and the last few elements that do not fill one."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    flat = tensor.contiguous().reshape(-1)
    if flat.element_size() == 8:
        return flat.view(torch.int64), None
    flat = flat.view(_AS_INTEGER[flat.element_size()])
    each = 8 // flat.element_size()
    rest = len(flat) % each
    whole = len(flat) - rest
    if not whole:
        return flat.long(), None
    if flat.storage_offset() % each:  # a view of a larger buffer may start in the middle of a word
        flat = flat.clone()
    return flat.narrow(0, 0, whole).view(torch.int64), flat.narrow(0, whole, rest).long() if rest else None


def _sum_of_mixed(words: Tensor, *, start: int) -> Tensor:
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for begin in range(0, len(words), _PIECE):
        piece = words.narrow(0, begin, min(_PIECE, len(words) - begin))
        mixed = torch.arange(start + begin, start + begin + len(piece), device=words.device).mul_(_GOLDEN)
        mixed = mixed.add_(piece).mul_(_MIXER)
        mixed.bitwise_xor_((mixed >> 32).bitwise_and_(_LOW))  # `>>` copies the sign, which would lose a bit
        total += mixed.mul_(_GOLDEN).sum()
    return total
