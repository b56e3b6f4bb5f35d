"""Why numbers grew until they overflowed: what the updates before a bad step tell."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from lightning_tuning.rules.stale_gradient import never_set_back

__all__ = ["Blame", "Pace", "blame_growth", "grew", "row"]

_TREND = 10.0
"""Last gradient norm over the median of those before it that is called growth; LT601's threshold."""

_STRIDE = 0.25
"""Length of an update over that of the weights that is too much; healthy runs lie near 0.001."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """How far updates moved the weights.

    Attributes:
        lr: the highest learning rate at the bad step.
        before: norm of the weights when they were last looked at: at the start of the run or of its last epoch.
        now: their norm at the bad step; NaN if they are broken themselves.
        updates: made since.
        smallest: length of the smallest of the last updates, where the optimizer's rule is known here.
        known: of how many updates that is the smallest.
        proportional: an update is proportional to the loss (SGD; Adam's is not).
    """

    lr: float
    before: float
    now: float
    updates: int
    smallest: float | None = None
    known: int = 0
    proportional: bool = False

    @property
    def stride(self) -> float:
        """The smallest known update over the weights, or else the growth of the weights for each; 0 if unknown."""
        length = (self.now - self.before) / max(self.updates, 1) if self.smallest is None else self.smallest
        return length / self.before if self.before > 0 and self.updates and math.isfinite(length) else 0.0


@dataclasses.dataclass(frozen=True)
class Blame:
    """A cause, in half a sentence and in numbers."""

    cause: str
    words: str
    evidence: Mapping[str, float | int | str] = dataclasses.field(default_factory=dict)


def blame_growth(
    norms: Sequence[float] = (), pace: Pace | None = None, *, stale_updates: int = 0, summed: int = 0
) -> Blame | None:
    """What made numbers grow, if something did.

    The surest first: gradients that were never set back. Then updates that had all been too large for the weights, the
    smallest of the last ones too: of a loss that is a sum over samples, if its mean would not have done that, or of the
    learning rate. Last, gradients that had been of the usual size and then grew.

    Args:
        norms: global gradient norms of the last healthy updates, oldest first.
        pace: how far they moved the weights.
        stale_updates: updates with gradients that were never set back.
        summed: samples over which the loss is a sum; 0 for a mean, and for what is not known.

    Example:
        >>> blame_growth([1.0, 1.2, 1.1, 80.0]).words
        'gradients grew before: 1, 1.2, 1.1, 80'
        >>> blame_growth([30.0, 9e3], Pace(lr=0.5, before=3.0, now=5e3, updates=2, smallest=15.0, known=2)).cause
        'learning-rate'
    """
    if stale_updates:
        return Blame("stale-gradient", never_set_back(stale_updates), {"stale_updates": stale_updates})
    if pace is not None and pace.stride >= _STRIDE and (pace.smallest is not None or not grew(norms)):
        numbers = {"lr": pace.lr, "update_ratio": pace.stride, "weight_norm": pace.before, "updates": pace.updates}
        if pace.proportional and summed and pace.stride / summed < _STRIDE:
            words = f"the loss is a sum over {summed} samples, and {_paced(pace)}"
            return Blame("sum-reduction", words, {**numbers, "summed": summed})
        return Blame("learning-rate", f"{_paced(pace)}, with lr={pace.lr:g}", numbers)
    return Blame("exploding-gradient", f"gradients grew before: {row(norms)}") if grew(norms) else None


def grew(norms: Sequence[float]) -> bool:
    """Whether the last gradient norm is far above those before it."""
    return len(norms) >= 3 and norms[-1] > _TREND * statistics.median(norms[:-1]) > 0


def row(norms: Sequence[float]) -> str:
    """``"1, 1.2, 80"``."""
    return ", ".join(f"{norm:.3g}" for norm in norms)


def _paced(pace: Pace) -> str:
    if pace.smallest is None:
        count = f"{pace.updates} update{'' if pace.updates == 1 else 's'}"
        return f"the norm of the weights grew from {pace.before:.3g} to {pace.now:.3g} in {count}"
    which = "the last update was" if pace.known <= 1 else f"each of the last {pace.known} updates was at least"
    return f"{which} {pace.stride:.3g} times as long as the weights (norm {pace.before:.3g})"
