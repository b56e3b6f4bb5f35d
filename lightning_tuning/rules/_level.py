"""Levels of a loss of any sign and scale: where it began, what is usual, whether it comes down."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_tuning.rules._rolling import RunningMoments

__all__ = ["BROKEN", "Start", "UsualLoss", "deviation", "falls", "is_usable", "mean_of"]

_FIRST = 10
"""Losses whose median is where the run began: the very first may be huge; after ten more, a fast net has learned."""
_SETTLE = 20
_SMOOTHING = 0.97  # ZClip's alpha
_DEVIATIONS = 3.0
_WORTH_SAYING = 0.01
"""Of what the run has gained; less is no rise, were it a hundred times a loss of 1e-6."""
_RATE_ROSE = 1.5
BROKEN = 1e100
"""A loss of this size is as good as infinite, which is LT701's business; its square still is a float."""


def is_usable(loss: float) -> bool:
    """Whether ``loss`` says anything of a level.

    Example:
        >>> is_usable(-3.5), is_usable(math.nan), is_usable(-math.inf)
        (True, False, False)
    """
    return abs(loss) < BROKEN


def mean_of(values: Sequence[float]) -> float:
    """The mean of at least one value.

    Example:
        >>> mean_of([1.0, 3.0])
        2.0
    """
    return sum(values) / len(values)


def deviation(values: Sequence[float], mean: float) -> float:
    """The standard deviation of at least two values around their mean; of large ones as well.

    Example:
        >>> deviation([1.0, 3.0], 2.0), deviation([5e99, -5e99], 0.0) > 0
        (1.4142135623730951, True)
    """
    return math.hypot(*[value - mean for value in values]) / math.sqrt(len(values) - 1)


def falls(values: Sequence[float]) -> bool:
    """Whether the second half of ``values`` probably lies below the first one; needs two.

    By ranks (Mann and Whitney's, one deviation): a single huge value is no fall.

    Example:
        >>> falls([5.0, 4.0, 4.2, 3.0, 2.9, 2.1]), falls([5e9, 4.0, 4.2, 5.1, 4.4, 3.9])
        (True, False)
    """
    half = len(values) // 2
    higher = sum((a > b) - (a < b) for a in values[:half] for b in values[-half:])
    return higher > math.sqrt(half * half * (2 * half + 1) / 3)


class Start:
    """Where a run began: the median of its first losses.

    Example:
        >>> start = Start()
        >>> for loss in (40.0, 2.5, 2.25):
        ...     start.add(loss)
        >>> start.share_lost(before=0.5, now=1.5)
        0.5
    """

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._level = -math.inf

    def add(self, loss: float) -> None:
        """Take a loss in; those after the first ten change nothing."""
        if len(self._losses) < _FIRST:
            self._losses.append(loss)
            self._level = statistics.median(self._losses)

    def gained(self, before: float) -> float:
        """How far ``before`` lies below the start; 0 where it does not."""
        return max(0.0, self._level - before)

    def share_lost(self, before: float, now: float) -> float:
        """How much of that a rise from ``before`` to ``now`` undoes; infinity, where nothing had been gained."""
        gained = self.gained(before)
        return (now - before) / gained if gained > 0 else math.inf

    def state_dict(self) -> list[float]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return list(self._losses)

    def load_state_dict(self, losses: Sequence[float]) -> None:
        """Go on with it."""
        self._losses = []
        for loss in losses:
            self.add(loss)


class UsualLoss:
    """The losses of the last time, and with which learning rates they came.

    Args:
        window: how many; of a younger run the last half of it, so that its fall at the start is soon forgotten.
        factor: of the mean, above which a loss is high; see :class:`~lightning_tuning.rules.loss_spike.SpikeJudge`.
        zscore: likewise.
    """

    def __init__(self, window: int, factor: float, zscore: float | None) -> None:
        self._window = window
        self._factor = factor
        self._zscore = zscore
        self.start = Start()
        self._seen = 0
        self.forget()

    def forget(self) -> None:
        """What was usual is no longer; where the run began stays."""
        self._losses: list[float] = []
        self._rates: list[float] = []
        self._moments = RunningMoments(_SMOOTHING)

    def add(self, loss: float, lr: float) -> None:
        """This is usual."""
        self.start.add(loss)
        self._moments.add(loss)
        self._losses.append(loss)
        self._rates.append(lr)
        self._seen += 1
        surplus = len(self._losses) - min(self._window, max(_SETTLE, self._seen // 2))
        if surplus > 0:
            del self._losses[:surplus], self._rates[:surplus]

    @property
    def mean(self) -> float:
        """Of at least one loss."""
        return mean_of(self._losses)

    def is_exceeded_by(self, loss: float) -> bool:
        """Whether ``loss`` is high; never, while too few are known."""
        if len(self._losses) < _SETTLE:
            return False
        mean = self.mean
        if loss <= mean + _WORTH_SAYING * self.start.gained(mean):
            return False
        if self._zscore is not None:
            return self._moments.is_above(loss, self._zscore)
        rise = loss - mean
        return rise > (self._factor - 1) * abs(mean) and rise > _DEVIATIONS * deviation(self._losses, mean)

    @property
    def lr(self) -> float:
        """The lowest learning rate of the time; NaN where none is known."""
        return min((rate for rate in self._rates if not math.isnan(rate)), default=math.nan)

    def rate_rose(self, lr: float) -> bool:
        """Whether ``lr`` is clearly above it."""
        return lr > _RATE_ROSE * self.lr

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "start": self.start.state_dict(),
            "seen": self._seen,
            "losses": list(self._losses),
            "rates": list(self._rates),
            "moments": [self._moments.mean, self._moments.variance],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self.start.load_state_dict(state["start"])
        self._seen = state["seen"]
        self._losses, self._rates = list(state["losses"]), list(state["rates"])
        self._moments.mean, self._moments.variance = state["moments"]
