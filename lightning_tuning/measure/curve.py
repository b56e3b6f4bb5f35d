"""The whole curve of a loss in a fixed number of points, however long the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["LossCurve", "Point"]

_MOST = 64
"""Points that are kept; when there are more, each two become one."""
_START = 3
_FEWEST = 3
"""Points that tell of a level or a trend."""


class Point(NamedTuple):
    """The mean of some losses in a row, and the standard error of that mean.

    Example:
        >>> Point(2.0, 0.3) + Point(1.0, 0.4)
        Point(mean=1.5, error=0.25)
    """

    mean: float
    error: float

    def __add__(self, other: Point) -> Point:  # type: ignore[override]  # it is no longer tuple
        """The mean of both."""
        return Point(self.mean / 2 + other.mean / 2, math.hypot(self.error, other.error) / 2)


class LossCurve:
    """Keeps the training losses as at most 64 means, each of as many batches as the others.

    Args:
        batches: in a point at the beginning; 10 by default. It doubles whenever the points are 64.

    Attributes:
        points: oldest first.
        per_point: batches in each of them.
        batches: losses seen.
        start: the first three losses.

    Raises:
        ValueError: if ``batches`` is less than 2, where no error can be estimated.

    Example:
        >>> curve = LossCurve()
        >>> for step in range(1000):
        ...     _ = curve.add(2.3 - 0.001 * step)
        >>> len(curve.points), curve.per_point, curve.falls()
        (50, 20, True)
    """

    def __init__(self, batches: int = 10) -> None:
        if batches < 2:
            raise ValueError(f"`batches` must be at least 2, got {batches!r}.")
        self.per_point = batches
        self.batches = 0
        self.points: list[Point] = []
        self.start: list[float] = []
        self._open: list[float] = []

    def add(self, loss: float) -> bool:
        """Take a finite loss in; true if the points have changed."""
        if len(self.start) < _START:
            self.start.append(loss)
        self.batches += 1
        self._open.append(loss)
        if len(self._open) < self.per_point:
            return False
        count = len(self._open)
        mean = sum(x / count for x in self._open)
        error = math.hypot(*(x - mean for x in self._open)) / math.sqrt((count - 1) * count)
        self._open.clear()
        self.points.append(Point(mean, error))
        if len(self.points) == _MOST:
            self.points = [a + b for a, b in zip(self.points[::2], self.points[1::2], strict=True)]
            self.per_point *= 2
        return True

    def last(self, share: float) -> list[Point]:
        """The points of the last ``share`` of the run, at least three if there are as many."""
        return self.points[-max(_FEWEST, math.ceil(share * len(self.points))) :]

    def level(self, share: float = 1 / 3) -> Point:
        """The mean over the last ``share`` of the run; needs a point."""
        points = self.last(share)
        error = math.hypot(*(point.error for point in points)) / len(points)
        return Point(sum(point.mean / len(points) for point in points), error)

    def slope(self, share: float = 1.0) -> Point:
        """Rise per point of a straight line through the last ``share`` of the run, with its uncertainty.

        The uncertainty is the larger one of what the noise of the points and their scatter about the line tell; it is
        infinite for fewer than three points.
        """
        points = self.last(share)
        count = len(points)
        if count < _FEWEST:
            return Point(0.0, math.inf)
        centre = (count - 1) / 2
        spread = sum((i - centre) ** 2 for i in range(count))
        slope = sum((i - centre) / spread * point.mean for i, point in enumerate(points))
        mean = sum(point.mean / count for point in points)
        noise = math.hypot(*((i - centre) * point.error for i, point in enumerate(points))) / spread
        scatter = math.hypot(*(point.mean - mean - slope * (i - centre) for i, point in enumerate(points)))
        return Point(slope, max(noise, scatter / math.sqrt((count - 2) * spread)))

    def falls(self, share: float = 1.0, certain: float = 2.0) -> bool:
        """Whether it falls by more than ``certain`` times the uncertainty over the last ``share`` of the run."""
        slope, error = self.slope(share)
        return slope < -certain * error - 1e-12

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "per_point": self.per_point,
            "batches": self.batches,
            "points": [list(point) for point in self.points],
            "start": list(self.start),
            "open": list(self._open),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self.per_point, self.batches = state["per_point"], state["batches"]
        self.points = [Point(mean, error) for mean, error in state["points"]]
        self.start, self._open = list(state["start"]), list(state["open"])
