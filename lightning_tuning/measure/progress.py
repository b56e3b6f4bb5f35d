"""Is the run learning? The smoothed training loss, judged from plain floats."""

from __future__ import annotations

import math
import statistics
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from lightning_tuning.findings import ProgressState

__all__ = ["Progress"]


_RECENT = 6
_DIVERGED = 2.0
_SIGNIFICANT = 3.0
_CLEARLY = 0.05
_TRIVIAL = 0.02
"""Of the trivial baseline, or of where the run began: less is no gain (LT801)."""
_START = 3
_HEAD = 16
_PATIENCE = 20
"""Blocks without progress that make a run flat: 200 batches, before which a slow start is no failure (LT801)."""
_BROKEN = 1e100
"""A loss of this size is as good as infinite, and its square still is a float."""


class Progress:
    """Reads the training losses of a run and says how it goes, with O(1) memory.

    The losses are averaged over blocks of ``block`` batches, without the tenth at either end (one outlier in a block is
    no news); the blocks' means are judged against the first one and the best one, with the standard error of a block's
    mean as the measure of noise:

    - ``unknown``: fewer than three blocks, no progress in fewer than twenty, or nobody may say (manual optimization,
      several optimizers: ``mute``);
    - ``diverging``: a loss that is not finite, or a mean that rose clearly above the best one: to twice it and more
      than the run had gained (LT802's "twice the minimum", in a form that holds for negative losses too); or a level
      that stays at twice the very first losses;
    - ``learning``: the last blocks fall significantly;
    - ``converged``: they do not, but the loss lies clearly below where the run began (by more than the noise and 2 %;
      and not above the very first losses, from where some runs leap up and come down half the way);
    - ``flat``: neither, after twenty blocks; also a loss that came down to ``trivial`` and no further.

    Args:
        block: batches per block; 10 by default: an explosion has to be seen within some tens of batches, and the error
            of a mean of 10 is already a third of the batch noise.

    Attributes:
        mute: nobody may say how the run goes.
        trivial: the loss of the best constant answer, where somebody knows it and the net is not seen to beat it.

    Raises:
        ValueError: if ``block`` is less than 2, where no noise can be estimated.

    Example:
        >>> progress = Progress()
        >>> progress.state
        'unknown'
        >>> for step in range(100):
        ...     _ = progress.update(2.3 * 0.99**step)
        >>> progress.state
        'learning'
    """

    _by_owner: ClassVar[weakref.WeakKeyDictionary[object, Progress]] = weakref.WeakKeyDictionary()

    def __init__(self, block: int = 10) -> None:
        if block < 2:
            raise ValueError(f"`block` must be at least 2, got {block}.")
        self.block = block
        self.mute = False
        self.trivial: float | None = None
        self.reset()

    @classmethod
    def of(cls, owner: object) -> Progress:
        """The progress of ``owner`` (a ``Trainer``), made on first use."""
        return cls._by_owner.setdefault(owner, cls())

    def reset(self) -> None:
        """A new run begins."""
        self.trivial = None
        self._losses: list[float] = []
        self._start: list[float] = []
        self._first: tuple[float, float] | None = None
        self._best: float = math.inf
        self._head: list[tuple[float, float]] = []
        self._recent: list[tuple[float, float]] = []
        self._broken = False
        self._blocks = 0

    def update(self, loss: float) -> bool:
        """Take the training loss of one batch; true if :attr:`state` may have changed by it."""
        if not abs(loss) < _BROKEN:
            self._broken = True
            self._losses.clear()
            return True
        if len(self._start) < _START:
            self._start.append(loss)
        self._losses.append(loss)
        if len(self._losses) < self.block:
            return False
        mean, error = _trimmed(self._losses)
        self._losses.clear()
        self._broken = False
        if self._first is None:
            self._first = mean, error
        if len(self._head) < _HEAD:
            self._head.append((mean, error))
        self._best = min(self._best, mean)
        self._recent = [*self._recent[1 - _PATIENCE :], (mean, error)]
        self._blocks += 1
        return True

    @property
    def state(self) -> ProgressState:
        """How the run goes now; see the class."""
        if self.mute:
            return "unknown"
        if self._broken:
            return "diverging"
        if self._first is None or len(self._recent) < 2:
            return "unknown"
        (first, first_error), (last, last_error) = self._first, self._recent[-1]
        noise = _SIGNIFICANT * math.hypot(first_error, last_error) + 1e-12
        gained, lost = first - self._best, last - self._best
        if lost > max((_DIVERGED - 1) * abs(self._best), gained, noise):
            return "diverging"
        if len(self._recent) < 3:
            return "unknown"
        if self._falls():
            return "learning"
        place = self._seen_from_the_start()
        if place == "far above":
            return "diverging"
        has_gained = place == "below" or (place == "near" and self._lies_below_the_first())
        if has_gained and not self._is_trivial():
            return "converged"
        return "flat" if self._blocks >= _PATIENCE else "unknown"

    def _seen_from_the_start(self) -> Literal["below", "near", "above", "far above"]:
        """Where the recent level lies, seen from the very first losses: some nets learn all within a block.

        The noise is that of the recent blocks; the first one's would be the fall itself.
        """
        lowest, start = min(self._start[0], statistics.median(self._start)), sum(self._start) / len(self._start)
        level, level_error = _pooled(self._recent)
        error = sorted(error for _, error in self._recent)[len(self._recent) // 2]
        noise = _SIGNIFICANT * math.hypot(level_error, error * math.sqrt(self.block / len(self._start))) + 1e-12
        above = _pooled(self._recent[-_RECENT:])[0] - lowest
        if above > max(noise, _CLEARLY * abs(lowest)):
            return "far above" if above > max(noise, (_DIVERGED - 1) * abs(lowest)) else "above"
        return "below" if start - level > max(noise, _CLEARLY * abs(start)) else "near"

    def _lies_below_the_first(self) -> bool:
        """Whether the first 1, 2, 4 ... blocks lie above the last ones by more than chance; small gains need many."""
        count = 1
        while count <= min(len(self._head), self._blocks // 2):
            (head, error), (tail, tail_error) = (
                _pooled(self._head[:count]),
                _pooled(self._recent[count - self._blocks :]),
            )
            noise = _SIGNIFICANT * math.hypot(error, tail_error)
            if head - tail > max(noise, _TRIVIAL * abs(head)) + 1e-12:
                return True
            count *= 2
        return False

    def _is_trivial(self) -> bool:
        """Whether the recent level is that of the best constant answer, if somebody knows it."""
        return self.trivial is not None and _pooled(self._recent)[0] >= self.trivial - _TRIVIAL * abs(self.trivial)

    def _falls(self) -> bool:
        """Whether a straight line through the recent means falls by more than its own uncertainty."""
        recent = self._recent[-_RECENT:]
        count = len(recent)
        centre = (count - 1) / 2
        spread = sum((i - centre) ** 2 for i in range(count))
        slope = sum((i - centre) * mean for i, (mean, _) in enumerate(recent)) / spread
        uncertainty = math.sqrt(sum(((i - centre) * error) ** 2 for i, (_, error) in enumerate(recent))) / spread
        return slope < -(_SIGNIFICANT - 1) * uncertainty - 1e-12

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "losses": list(self._losses),
            "start": list(self._start),
            "first": None if self._first is None else list(self._first),
            "best": self._best,
            "head": [list(pair) for pair in self._head],
            "recent": [list(pair) for pair in self._recent],
            "broken": self._broken,
            "blocks": self._blocks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._losses, self._start = list(state["losses"]), list(state["start"])
        self._first = None if state["first"] is None else (state["first"][0], state["first"][1])
        self._best = state["best"]
        self._head = [(mean, error) for mean, error in state["head"]]
        self._recent = [(mean, error) for mean, error in state["recent"]]
        self._broken, self._blocks = state["broken"], state["blocks"]


def _trimmed(losses: Sequence[float]) -> tuple[float, float]:
    """The mean of ``losses`` without a tenth at either end, and its standard error (Yuen 1974)."""
    count = len(losses)
    cut = count // 10
    kept = sorted(losses)[cut : count - cut]
    mean = sum(x / len(kept) for x in kept)
    pulled = [kept[0]] * cut + kept + [kept[-1]] * cut  # the outer ones drawn in to the next
    centre = sum(x / count for x in pulled)
    # hypot: the squares of a diverging run's losses would overflow
    deviation = math.hypot(*(x - centre for x in pulled)) / math.sqrt(count - 1)
    return mean, deviation / ((1 - 2 * cut / count) * math.sqrt(count))


def _pooled(blocks: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The mean of several blocks, and its standard error."""
    count = len(blocks)
    return sum(mean / count for mean, _ in blocks), math.hypot(*(error for _, error in blocks)) / count
