"""One decision for all ranks: flags reduced, facts exchanged, and a mode in which nothing is sent to the others."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_tuning.trace.alone import AloneMode

__all__ = ["AloneMode", "exchange", "read_together", "several_ranks"]

T = TypeVar("T")


def several_ranks() -> bool:
    """Whether other processes train along."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def read_together(numbers: list[Tensor]) -> tuple[list[float], bool]:
    """Read 0-d tensors back to the host: the one device sync of a step.

    Args:
        numbers: the first one's device is where they are joined.

    Returns:
        The numbers of this rank, and whether one of them is not finite on any rank. Every rank must call it: with
        several ranks a flag is summed over them (one all-reduce of one number).

    Example:
        >>> read_together([torch.tensor(1.5), torch.tensor(float("inf"))])
        ([1.5, inf], True)
    """
    device = numbers[0].device
    if device.type == "cpu" and not several_ranks():
        own = [float(n) for n in numbers]
        return own, not math.isfinite(sum(own))
    joined = torch.stack([n.to(device, torch.float32) for n in numbers])
    if several_ranks():
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
