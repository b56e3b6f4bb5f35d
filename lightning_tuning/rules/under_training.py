"""LT806: the run ends while the loss falls as fast as ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register

if TYPE_CHECKING:
    from lightning_tuning.measure import LossCurve

__all__ = ["LT806", "under_training"]

LT806 = register(
    Rule(
        code="LT806",
        name="under-training",
        severity=Severity.INFO,
        kind="outcome",
        why=(
            "The last tenth of the run brought more than its share of all that was gained, at a learning rate that was "
            "not lowered for the end: it was stopped in the midst of learning."
        ),
        remedy="train longer: twice `max_epochs` (and a schedule that fits), or raise the learning rate.",
        source="Google tuning playbook, 'How to decide how long to train'",
    )
)

_ENOUGH = 400
_LAST = 0.1
_SHARE = 0.12
"""Of the whole gain, in the last tenth: a loss that falls steadily, as few do, has a tenth of it there."""
_CERTAIN = 3.0
_LATE = 0.25
"""Of the run at its end, over which it has to fall as well: one good block is no trend."""
_ANNEALED = 0.5


def under_training(curve: LossCurve, *, lr: float, highest_lr: float) -> Finding | None:
    """LT806 if the last tenth of the run brought more than .12 of its whole gain.

    Args:
        curve: the training losses, per batch.
        lr: the learning rate at the end.
        highest_lr: the highest one of the run. A rate that was lowered to half of it or less was meant to end there.

    Example:
        >>> from lightning_tuning.measure import LossCurve
        >>> curve = LossCurve()
        >>> for step in range(1000):
        ...     _ = curve.add(2.3 - 2e-9 * step**3)
        >>> under_training(curve, lr=0.1, highest_lr=0.1).message
        'the last tenth of 1000 batches brought 25 % of the whole gain, at an undiminished learning rate'
        >>> under_training(curve, lr=0.01, highest_lr=0.1)
    """
    if curve.batches < _ENOUGH or not lr > _ANNEALED * highest_lr or not curve.falls(_LATE, _CERTAIN):
        return None
    points = curve.points
    last = curve.last(_LAST)
    before = points[-2 * len(last) : -len(last)]
    if not before or len(points) < 4 * len(last):
        return None
    first, end = points[0], points[-1]
    gain = first.mean - end.mean
    late = -curve.slope(2 * len(last) / len(points)).mean * len(last)
    if not gain > 0 or late <= _SHARE * gain:
        return None
    fell = sum(point.mean for point in before) / len(before) - sum(point.mean for point in last) / len(last)
    if fell < _SHARE * gain:
        return None
    return LT806.finding(
        f"the last tenth of {curve.batches} batches brought {late / gain:.0%} of the whole gain, at an undiminished "
        "learning rate".replace("%", " %"),
        evidence={"share": late / gain, "loss": end.mean, "first": first.mean, "batches": curve.batches},
    )
