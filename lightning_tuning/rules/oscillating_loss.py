"""LT803: the training loss swings up and down by a good part of itself, and gets nowhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_tuning.findings import Finding, Rule, Severity, register

if TYPE_CHECKING:
    from lightning_tuning.measure import LossCurve

__all__ = ["LT803", "OscillationJudge"]

LT803 = register(
    Rule(
        code="LT803",
        name="oscillating-loss",
        severity=Severity.WARNING,
        kind="outcome",
        why=(
            "A loss that swings by a third of itself from one handful of batches to the next, and is no lower for it, "
            "is thrown from one wall of its valley to the other: each step is longer than the valley is wide."
        ),
        remedy=(
            "lower the learning rate (a third of it to begin with), or warm it up; then a larger batch, or clipping: "
            "`Trainer(gradient_clip_val=...)`."
        ),
        source="Zhang et al. 2021, AUTOTRAINER (oscillating loss); Cohen et al. 2021, edge of stability",
    )
)

_BATCHES = 4
"""In a smoothed point: few enough to show a swing, enough to calm the noise of batches by half."""
_POINTS = 50
_FLIPS = 0.5
_SWING = 0.3
"""Spread of the points over their mean; batch noise around a plateau of cross entropy stays below a tenth."""


class OscillationJudge:
    """Judges the training losses of a run, one by one, as plain floats.

    Four losses make a smoothed point. Of the last 50 points more than half of the changes turn back, as they do in
    mere noise too; so their spread has to be .3 of their mean as well, half of the swings have to be larger than the
    noise within the points, and neither these points nor the whole run may fall.

    Example:
        >>> from lightning_tuning.measure import LossCurve
        >>> judge, curve = OscillationJudge(), LossCurve()
        >>> losses = [(1.0 if step // 4 % 2 else 4.0) + 0.1 * (step % 3) for step in range(400)]
        >>> found = [judge.judge(loss, curve) for loss in losses if curve.add(loss) or True]
        >>> next(finding.message for finding in found if finding)
        'the loss swings between 1.07 and 4.12, around 2.6, and turned back in 48 of 48 steps of 4 batches'
    """

    def __init__(self) -> None:
        self._open: list[float] = []
        self._points: list[tuple[float, float]] = []

    def judge(self, loss: float, curve: LossCurve) -> Finding | None:
        """Take one finite loss; LT803 when it holds, once in 50 points.

        Args:
            loss: of a batch.
            curve: of the whole run.
        """
        self._open.append(loss)
        if len(self._open) < _BATCHES:
            return None
        mean = sum(self._open) / _BATCHES
        error = math.hypot(*(x - mean for x in self._open)) / math.sqrt((_BATCHES - 1) * _BATCHES)
        self._open.clear()
        self._points.append((mean, error))
        if len(self._points) < _POINTS:
            return None
        points, self._points = self._points, self._points[_POINTS // 2 :]
        return _judged([mean for mean, _ in points], [error for _, error in points], curve)

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {"open": list(self._open), "points": [list(point) for point in self._points]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._open, self._points = list(state["open"]), [(mean, error) for mean, error in state["points"]]


def _judged(means: list[float], errors: list[float], curve: LossCurve) -> Finding | None:
    count = len(means)
    level = sum(mean / count for mean in means)
    if min(means) <= 0 or len(curve.points) < 3:
        return None  # a loss around 0 has no size of its own
    changes = [b - a for a, b in itertools.pairwise(means)]
    turns = sum(a * b < 0 for a, b in itertools.pairwise(changes))
    swing = math.hypot(*(mean - level for mean in means)) / math.sqrt(count - 1)
    noise = sorted(math.hypot(a, b) for a, b in itertools.pairwise(errors))
    far = sum(abs(change) > noise[len(noise) // 2] for change in changes)
    if turns <= _FLIPS * (count - 2) or swing < _SWING * level or far < len(changes) / 2:
        return None
    half = count // 2
    fell = sum(means[:half]) / half - sum(means[half:]) / (count - half)
    start = min(sum(curve.start) / len(curve.start), curve.points[0].mean)
    if curve.falls() or fell > swing / math.sqrt(half) or level < start - swing / 2:
        return None
    return LT803.finding(
        f"the loss swings between {min(means):.3g} and {max(means):.3g}, around {level:.3g}, and turned back in "
        f"{turns} of {count - 2} steps of {_BATCHES} batches",
        evidence={"loss": level, "spread": swing, "turns": turns, "batches": curve.batches},
    )
