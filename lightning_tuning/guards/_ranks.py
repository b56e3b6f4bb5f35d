"""One decision for all ranks: flags reduced, facts exchanged, and a mode in which nothing is sent to the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_tuning.trace.alone import AloneMode

__all__ = ["AloneMode", "exchange", "read_together", "several_ranks"]

T = TypeVar("T")

_IS_AVAILABLE = dist.is_available()


def several_ranks() -> bool:
    """Whether other processes train along."""
    return _IS_AVAILABLE and dist.is_initialized() and dist.get_world_size() > 1


def read_together(numbers: Sequence[Tensor | float], *, together: bool | None = None) -> tuple[list[float], bool]:
    """Read 0-d tensors back to the host: the one device sync of a step.

    Args:
        numbers: tensors, joined where the first of them lies, or floats, which are on the host already.
        together: what :func:`several_ranks` says, for whoever asked already: that takes longer than all the rest.

    Returns:
        The numbers of this rank, and whether one of them is not finite on any rank. Every rank must call it: with
        several ranks a flag is summed over them (one all-reduce of one number).

    Example:
        >>> read_together([torch.tensor(1.5), float("inf")])
        ([1.5, inf], True)
    """
    if together is None:
        together = several_ranks()
    if not (together or [n for n in numbers if isinstance(n, Tensor) and not n.is_cpu]):
        own = [float(n) for n in numbers]
        return own, not math.isfinite(sum(own))
    device = next((n.device for n in numbers if isinstance(n, Tensor)), None)
    joined = torch.stack([torch.as_tensor(n, dtype=torch.float32, device=device) for n in numbers])
    if together:
        flag = joined.isfinite().logical_not().any().float().reshape(1)
        dist.all_reduce(flag)
        joined = torch.cat([joined, flag])
        *own, count = joined.tolist()
        return own, count > 0
    own = joined.tolist()
    return own, not math.isfinite(sum(own))


def exchange(fact: T) -> list[T]:
    """The fact of every rank, in the order of ranks; every rank must call it."""
    if not several_ranks():
        return [fact]
    everybody: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everybody, fact)
    return everybody
