"""LT801: the training loss is that of a net that knows nothing, and does not fall."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register

if TYPE_CHECKING:
    from lightning_tuning.measure import LossCurve
    from lightning_tuning.rules._baseline import Baseline, LossForm

__all__ = ["ENOUGH", "LT801", "not_learning"]

LT801 = register(
    Rule(
        code="LT801",
        name="not-learning",
        severity=Severity.WARNING,
        kind="outcome",
        why=(
            "After 200 batches and an epoch the loss is within 2 % of what the best constant answer gives, and does "
            "not fall: the net might as well not look at its input. More of the same will not help."
        ),
        remedy=(
            "mend the suspects in their order; where none is named, `Preflight()` tries to fit one batch, which a "
            "sound net, loss and learning rate can."
        ),
        source=(
            "Karpathy 2019, A Recipe for Training Neural Networks, 'input-independent baseline'; Braiek & Khomh 2022, "
            "TheDeepChecker; measured: of 64 healthy nets none is near its baseline by then."
        ),
    )
)

ENOUGH = 200
"""Batches before which a slow start is no failure."""
_WITHIN = 0.02
_HAD_LEARNED = 0.9
_CERTAIN = 3.0
_STILL = 0.005
"""Of the loss: all that the means of a loss may move that nobody knows a baseline of."""
_NOISY = 0.1
"""Of the first losses: with more noise than that they are no baseline."""


def not_learning(curve: LossCurve, form: LossForm, baseline: Baseline | None = None) -> Finding | None:
    """LT801 if nothing was learned; in doubt ``None``.

    - With targets: the net's losses against those of the best constant answer to the same batches. Within 2 % is not
      enough: a gain that is certain (three standard errors) is one, as a regression with R2 .01 may be a success.
    - Of classes whose prior is not known: against ln K.
    - Of other comparisons: against the very first losses.
    - Of anything else (self-supervision): only if the loss does not move at all, .5 % of it.

    Whatever falls significantly, over its last half, is learning.

    Args:
        curve: the training losses, per batch.
        form: see :func:`~lightning_tuning.rules._baseline.loss_form`.
        baseline: see :class:`~lightning_tuning.rules._baseline.TargetMoments`.

    Example:
        >>> from lightning_tuning.measure import LossCurve
        >>> from lightning_tuning.rules._baseline import LossForm
        >>> curve = LossCurve()
        >>> for step in range(400):
        ...     _ = curve.add(2.31 + 0.02 * (step % 3))
        >>> finding = not_learning(curve, LossForm(None, is_known=True))
        >>> finding.message
        'the loss averages 2.33 after 400 batches, no better than its first values (2.33)'
    """
    if curve.batches < ENOUGH or len(curve.points) < 3 or curve.falls(0.5):
        return None
    level = curve.level()
    if baseline is not None:
        if min(point.mean for point in curve.points) < _HAD_LEARNED * baseline.loss:
            return None  # and lost it again, which is LT802's or LT807's business
        if baseline.gain > min(_WITHIN * baseline.loss, max(_CERTAIN * baseline.error, 1e-9)):
            return None
        return _finding(curve, level.mean, baseline.loss, "the best constant answer", baseline.formula)
    if form.classes > 1:
        untrained = form.factor * math.log(form.classes)
        if level.mean < (1 - _WITHIN) * untrained or curve.falls():
            return None
        return _finding(curve, level.mean, untrained, "a guess", f"ln {form.classes}")
    return None if curve.falls() else _against_the_start(curve, form)


def _against_the_start(curve: LossCurve, form: LossForm) -> Finding | None:
    first, level = curve.points[0], curve.level()
    means = [point.mean for point in curve.points]
    start = sum(curve.start) / len(curve.start)
    if form.is_known:
        one = first.error * math.sqrt(curve.per_point)  # of a single loss
        noise = 2 * math.hypot(one / math.sqrt(len(curve.start)), level.error)
        allowed = max(_WITHIN * abs(start), noise)
        is_flat = noise <= _NOISY * abs(start) and start - level.mean <= allowed and first.mean - level.mean <= allowed
    else:
        still = _STILL * abs(level.mean)
        is_flat = max(means) - min(means) <= still and abs(start - level.mean) <= still
    return _finding(curve, level.mean, start, "its first values") if is_flat else None


def _finding(curve: LossCurve, level: float, baseline: float, of: str, formula: str = "") -> Finding:
    told = f"{baseline:.3g}, {formula}" if formula else f"{baseline:.3g}"
    return LT801.finding(
        f"the loss averages {level:.3g} after {curve.batches} batches, no better than {of} ({told})",
        evidence={"loss": level, "baseline": baseline, "batches": curve.batches},
    )
