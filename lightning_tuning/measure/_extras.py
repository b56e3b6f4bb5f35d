"""Numbers of somebody's own that land with those of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

__all__ = ["Extra", "hand_out"]


class Extra(NamedTuple):
    """Tensors of somebody's own, and who waits for them."""

    tensors: Sequence[Tensor]
    receive: Callable[[list[list[float]]], None]


def hand_out(extras: Sequence[Extra], numbers: list[list[float]]) -> None:
    """To each its own, from the numbers of all of them.

    Example:
        >>> hand_out([Extra([], print), Extra([Tensor([7.0])], print)], [[7.0]])
        []
        [[7.0]]
    """
    for extra in extras:
        own, numbers = numbers[: len(extra.tensors)], numbers[len(extra.tensors) :]
        extra.receive(own)
