"""The usual size of a number: a rolling window that knows its median and percentiles at little cost."""

from __future__ import annotations

import bisect
import math
import statistics

__all__ = ["RollingWindow", "RunningMoments"]


class RollingWindow:
    """The last ``size`` values, kept sorted beside their order of arrival.

    Example:
        >>> window = RollingWindow(3)
        >>> for value in (9.0, 1.0, 2.0, 3.0):
        ...     window.add(value)
        >>> window.values, window.median
        ([1.0, 2.0, 3.0], 2.0)
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.values: list[float] = []
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self.values)

    def add(self, value: float) -> None:
        """Take a finite value in; the oldest one leaves."""
        self.values.append(value)
        bisect.insort(self._sorted, value)
        if len(self.values) > self.size:
            del self._sorted[bisect.bisect_left(self._sorted, self.values.pop(0))]

    @property
    def median(self) -> float:
        """The (upper) median; NaN of nothing."""
        return self._sorted[len(self._sorted) // 2] if self._sorted else math.nan

    def ninetieth_percentile(self) -> float:
        """As ``statistics.quantiles`` has it; needs two values."""
        return statistics.quantiles(self._sorted, n=10)[-1]

    def replace(self, values: list[float]) -> None:
        """Hold these values instead."""
        self.values, self._sorted = list(values), sorted(values)


class RunningMoments:
    """Exponentially smoothed mean and variance.

    Example:
        >>> moments = RunningMoments(0.9)
        >>> for value in (1.0, 1.2, 0.8, 1.0):
        ...     moments.add(value)
        >>> moments.is_above(1.1, z=2.5), moments.is_above(2.0, z=2.5)
        (False, True)
    """

    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing
        self.mean = math.nan
        self.variance = 0.0

    def add(self, value: float) -> None:
        """Take a finite value in."""
        if math.isnan(self.mean):
            self.mean = value
        deviation = value - self.mean
        self.mean += (1 - self.smoothing) * deviation
        self.variance = self.smoothing * (self.variance + (1 - self.smoothing) * deviation * deviation)

    def is_above(self, value: float, z: float) -> bool:
        """Whether ``value`` is more than ``z`` deviations above the mean; never, where nothing varied."""
        return self.variance > 0 and value > self.mean + z * math.sqrt(self.variance)
