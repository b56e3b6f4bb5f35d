"""Is the run learning? The smoothed training loss, judged from plain floats."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar

from lightning_tuning.findings import ProgressState

__all__ = ["Progress"]


_RECENT = 6
_DIVERGED = 2.0
_SIGNIFICANT = 3.0
_CLEARLY_BELOW = 0.05
_START = 3
_PATIENCE = 20
"""Blocks without progress that make a run flat: 200 batches, before which a slow start is no failure (LT801)."""
_BROKEN = 1e100
"""A loss of this size is as good as infinite, and its square still is a float."""


class Progress:
    """Reads the training losses of a run and says how it goes, with O(1) memory.

    The losses are averaged over blocks of ``block`` batches; the blocks' means are judged against the first one and the
    best one, with the standard error of a block's mean as the measure of noise:

    - ``unknown``: fewer than three blocks, no progress in fewer than twenty, or nobody may say (manual optimization,
      several optimizers: ``mute``);
    - ``diverging``: a loss that is not finite, or a mean that rose clearly above the best one: to twice it and more
      than the run had gained (LT802's "twice the minimum", in a form that holds for negative losses too);
    - ``learning``: the last blocks fall significantly;
    - ``converged``: they do not, but the loss lies clearly below where the run began (by more than the noise and 5 %);
    - ``flat``: neither, after twenty blocks.

    Args:
        block: batches per block; 10 by default: an explosion has to be seen within some tens of batches, and the error
            of a mean of 10 is already a third of the batch noise.

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
        self.reset()

    @classmethod
    def of(cls, owner: object) -> Progress:
        """The progress of ``owner`` (a ``Trainer``), made on first use."""
        return cls._by_owner.setdefault(owner, cls())

    def reset(self) -> None:
        """A new run begins."""
        self._losses: list[float] = []
        self._start: list[float] = []
        self._first: tuple[float, float] | None = None
        self._best: float = math.inf
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
        mean = sum(x / self.block for x in self._losses)
        # hypot: the squares of a diverging run's losses would overflow
        error = math.hypot(*(x - mean for x in self._losses)) / math.sqrt((self.block - 1) * self.block)
        self._losses.clear()
        self._broken = False
        if self._first is None:
            self._first = mean, error
        self._best = min(self._best, mean)
        self._recent = [*self._recent[1 - _RECENT :], (mean, error)]
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
        if first - last > max(noise, _CLEARLY_BELOW * abs(first)) or self._lies_below_the_start():
            return "converged"
        return "flat" if self._blocks >= _PATIENCE else "unknown"

    def _lies_below_the_start(self) -> bool:
        """Whether the recent level is clearly below the very first losses: some nets learn all within a block.

        The noise is that of the recent blocks; the first one's would be the fall itself.
        """
        start, count = sum(self._start) / len(self._start), len(self._recent)
        level = sum(mean for mean, _ in self._recent) / count
        error = sorted(error for _, error in self._recent)[count // 2]
        noise = _SIGNIFICANT * error * math.hypot(1 / math.sqrt(count), math.sqrt(self.block / len(self._start)))
        return start - level > max(noise, _CLEARLY_BELOW * abs(start)) + 1e-12

    def _falls(self) -> bool:
        """Whether a straight line through the recent means falls by more than its own uncertainty."""
        count = len(self._recent)
        centre = (count - 1) / 2
        spread = sum((i - centre) ** 2 for i in range(count))
        slope = sum((i - centre) * mean for i, (mean, _) in enumerate(self._recent)) / spread
        uncertainty = math.sqrt(sum(((i - centre) * error) ** 2 for i, (_, error) in enumerate(self._recent))) / spread
        return slope < -(_SIGNIFICANT - 1) * uncertainty - 1e-12

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "losses": list(self._losses),
            "start": list(self._start),
            "first": None if self._first is None else list(self._first),
            "best": self._best,
            "recent": [list(pair) for pair in self._recent],
            "broken": self._broken,
            "blocks": self._blocks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._losses, self._start = list(state["losses"]), list(state["start"])
        self._first = None if state["first"] is None else (state["first"][0], state["first"][1])
        self._best = state["best"]
        self._recent = [(mean, error) for mean, error in state["recent"]]
        self._broken, self._blocks = state["broken"], state["blocks"]
