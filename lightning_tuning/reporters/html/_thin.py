"""A curve in as many points as a screen can show; nothing that stood out is lost on the way."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

from lightning_tuning.reporters.run_record import Block

__all__ = ["MOST", "Point", "chunks", "finite", "is_off", "points"]

MOST = 500
"""Points of a curve: a plot is some 1,000 pixels wide."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Point:
    """What one quantity was in some steps on end.

    Attributes:
        step: the first of them.
        last_step: the last.
        mean: of the finite values, weighted by steps; ``None`` where there is none.
        low: least finite value.
        high: greatest finite value.
        off: steps that are known to be not finite. A block of several steps tells of one at least.
        off_words: ``"nan"``, ``"inf"``: what they were instead.
    """

    step: int
    last_step: int
    mean: float | None
    low: float | None
    high: float | None
    off: int = 0
    off_words: str = ""

    @property
    def middle(self) -> float:
        """Where it is drawn."""
        return (self.step + self.last_step) / 2


def finite(value: float | None) -> bool:
    """Whether there is a value that can be drawn."""
    return value is not None and math.isfinite(value)


def is_off(value: float | None) -> bool:
    """Whether there is a value, and it is NaN or infinite."""
    return value is not None and not math.isfinite(value)


def chunks(items: Sequence[T], most: int = MOST) -> Iterator[Sequence[T]]:
    """``items`` in at most ``most`` runs of the same length.

    Example:
        >>> [list(chunk) for chunk in chunks([1, 2, 3, 4, 5], most=2)]
        [[1, 2, 3], [4, 5]]
    """
    size = max(1, math.ceil(len(items) / most))
    for start in range(0, len(items), size):
        yield items[start : start + size]


def points(blocks: Sequence[Block], name: str, most: int = MOST) -> list[Point]:
    """The curve ``name`` of ``blocks``, with ``name_min`` and ``name_max`` where blocks have them.

    Args:
        blocks: of one optimizer, in order.
        name: ``"loss"`` or ``"grad_norm"``.
        most: points that are wanted.

    Example:
        >>> blocks = [Block(0, 0, 0, loss=2.0), Block(1, 1, 0, loss=float("nan")), Block(2, 2, 0, loss=1.0)]
        >>> (point,) = points(blocks, "loss", most=1)
        >>> point.mean, point.low, point.high, point.off, point.off_words
        (1.5, 1.0, 2.0, 1, 'nan')
    """
    measured = [block for block in blocks if any(value is not None for value in _values(block, name))]
    return [_point(chunk, name) for chunk in chunks(measured, most)]


def _point(blocks: Sequence[Block], name: str) -> Point:
    means = [(getattr(block, name), max(1, block.count)) for block in blocks if finite(getattr(block, name))]
    values = [value for block in blocks for value in _values(block, name) if value is not None]
    usable = [value for value in values if math.isfinite(value)]
    weight = sum(count for _, count in means)
    off = [
        block.count if is_off(getattr(block, name)) else 1
        for block in blocks
        if any(is_off(value) for value in _values(block, name))
    ]
    words = dict.fromkeys(str(value) for value in values if not math.isfinite(value))
    return Point(
        blocks[0].step,
        blocks[-1].last_step,
        # Divided first: the sum of two values near the largest float would be infinite.
        math.fsum(value * (count / weight) for value, count in means) if means else None,
        min(usable, default=None),
        max(usable, default=None),
        sum(off),
        ", ".join(words),
    )


def _values(block: Block, name: str) -> list[float | None]:
    return [getattr(block, field, None) for field in (name, f"{name}_min", f"{name}_max")]
