"""Nested values with tensors in them, copied to another device and back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Kept", "freeze", "thaw"]


@dataclasses.dataclass
class Kept:
    """A tensor's values elsewhere, and where it was at home."""

    values: Tensor
    home: torch.device


def freeze(value: Any, spare: Any, device: torch.device) -> Any:
    """A copy of a nested value on ``device``, its tensors written into those of ``spare`` where they fit.

    From an accelerator to the CPU it goes into pinned memory and the host does not wait: the values are there after the
    next device sync.

    Args:
        value: tensors, mappings, lists and tuples of them; anything else is copied as it is.
        spare: what an earlier call returned and nobody needs any more; ``None`` if there is nothing of the kind.
        device: where to keep the tensors.

    Example:
        >>> kept = freeze({"step": 3, "mean": torch.ones(2)}, None, torch.device("cpu"))
        >>> thaw(kept, None)
        {'step': 3, 'mean': tensor([1., 1.])}
    """
    if isinstance(value, Tensor):
        return _copy_out(value, spare, device)
    if isinstance(value, Mapping):
        known = spare if isinstance(spare, Mapping) else {}
        return {key: freeze(item, known.get(key), device) for key, item in value.items()}
    if type(value) in (list, tuple):
        before = spare if isinstance(spare, list | tuple) else ()
        items = [freeze(item, before[i] if i < len(before) else None, device) for i, item in enumerate(value)]
        return type(value)(items)
    return copy.deepcopy(value)


def thaw(kept: Any, current: Any) -> Any:
    """What was frozen, written into ``current`` where that is such a tensor, or a mapping with such tensors in it."""
    if isinstance(kept, Kept):
        if isinstance(current, Tensor) and _alike(current, kept.values) and not _is_expanded(current):
            current.copy_(kept.values, non_blocking=True)
            return current
        return kept.values.to(kept.home, copy=True)
    if isinstance(kept, Mapping):
        now = current if isinstance(current, Mapping) else {}
        return {key: thaw(item, now.get(key)) for key, item in kept.items()}
    if type(kept) in (list, tuple):
        return type(kept)(thaw(item, None) for item in kept)  # items move from place to place: never written in place
    return copy.deepcopy(kept)


def _copy_out(tensor: Tensor, spare: Any, device: torch.device) -> Kept:
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        return Kept(tensor.to(device, copy=True), tensor.device)
    if isinstance(spare, Kept) and _alike(spare.values, tensor):
        values = spare.values
    else:
        values = torch.empty_like(tensor, device=device, pin_memory=tensor.is_cuda and device.type == "cpu")
    return Kept(values.copy_(tensor, non_blocking=True), tensor.device)


def _alike(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and first.layout == second.layout


def _is_expanded(tensor: Tensor) -> bool:
    """Several elements are one in memory: it cannot be written to."""
    if tensor.layout is not torch.strided:
        return True
    return any(size > 1 and not stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
