"""Batches made of another: the same with some tensors replaced, and the same samples twice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_tuning.trace import batch_tensors

__all__ = ["doubled", "with_tensors"]


def with_tensors(batch: Any, replace: Callable[[Tensor], Tensor], depth: int = 6) -> Any:
    """A copy of ``batch`` whose tensors went through ``replace``; what is no tensor, and the batch itself, stay.

    Finds the same tensors as :func:`lightning_tuning.trace.batch_tensors`: in mappings, sequences, named tuples and
    objects, to the same depth.

    Example:
        >>> with_tensors({"x": torch.ones(2), "name": "a"}, lambda tensor: tensor + 1)
        {'x': tensor([2., 2.]), 'name': 'a'}
    """
    if isinstance(batch, Tensor):
        return replace(batch)
    if depth == 0 or isinstance(batch, str | bytes | int | float | torch.Generator | torch.nn.Module) or batch is None:
        return batch
    if isinstance(batch, Mapping):
        items = {key: with_tensors(value, replace, depth - 1) for key, value in batch.items()}
        if type(batch) is dict:
            return items
        twin: Any = copy.copy(batch)  # a class of its own keeps what else it knows
        for key, value in items.items():
            twin[key] = value
        return twin
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(with_tensors(value, replace, depth - 1) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(with_tensors(value, replace, depth - 1) for value in batch)
    if hasattr(batch, "__dict__"):
        twin = copy.copy(batch)
        for name, value in vars(batch).items():
            object.__setattr__(twin, name, with_tensors(value, replace, depth - 1))  # frozen dataclasses too
        return twin
    return batch


def doubled(batch: Any, batch_size: int) -> Any:
    """``batch`` with every sample twice: all tensors whose first size is ``batch_size``; ``None`` if some are not.

    Example:
        >>> doubled((torch.zeros(2, 3), torch.arange(2)), 2)[1]
        tensor([0, 1, 0, 1])
    """
    if any(tensor.dim() == 0 or tensor.shape[0] != batch_size for _, tensor in batch_tensors(batch)):
        return None
    return with_tensors(batch, lambda tensor: torch.cat([tensor, tensor]))


def replaced(batch: Any, by: Mapping[int, Tensor]) -> Any:
    """``batch`` with the tensors whose ``id`` is in ``by`` exchanged."""
    return with_tensors(batch, lambda tensor: by.get(id(tensor), tensor))
