"""LT511: a learning rate above what the curvature of the loss bears."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.findings.causes import CAUSES

if TYPE_CHECKING:
    from lightning_tuning.trace.stability import Stability

__all__ = ["EXCESS", "LT511", "StabilityJudge", "rate_above_stability", "with_stable_rate"]

LT511 = register(
    Rule(
        code="LT511",
        name="rate-above-stability",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "Where the loss curves by more than 2 / lr (with momentum b: 2 (1 + b) / lr), each step overshoots by more "
            "than the one before. Healthy runs touch that edge and stay there, and single batches pass it; a run that "
            "is above it again and again and does not learn is thrown about by its own steps."
        ),
        remedy="lower the learning rate to the stable one, or warm up to it.",
        source=(
            "Cohen et al. 2021, Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability; "
            "Cohen et al. 2022, Adaptive Gradient Methods at the Edge of Stability; Lewkowycz et al. 2020, The large "
            "learning rate phase of deep learning: the catapult mechanism"
        ),
    )
)

EXCESS = 1.5
BEYOND_THE_CATAPULT = 6.0


def rate_above_stability(stability: Stability, *, excess: float = EXCESS) -> Finding | None:
    """Whether the learning rate is clearly above the stable one, by one measurement.

    Args:
        stability: as measured.
        excess: times the bound that the sharpness has to exceed. Default 1.5: gradient descent on full batches comes to
            rest at the bound itself, and goes on learning there.

    Returns:
        LT511; ``None`` where the rate is stable, no bound is known, or the numbers are none.
    """
    measured, lr, bound, stable = stability.excess, stability.lr, stability.bound, stability.stable_lr
    if measured is None or lr is None or bound is None or stable is None:
        return None
    if not (math.isfinite(measured) and measured > excess):
        return None
    return LT511.finding(
        f"{_compared(lr, measured, stable)}: the sharpness of the batch loss, {stability.sharpness:.3g}, exceeds "
        f"{stability.formula} = {bound:.3g}",
        where=stability.where,
        evidence={
            "lr": lr,
            "stable_lr": stable,
            "sharpness": stability.sharpness,
            "bound": bound,
            "excess": measured,
            "residual": stability.residual,
            "threshold": excess,
        },
        remedy=f"lower it below `lr={stable:.2g}`, or warm up to the rate you have over a few hundred steps.",
    )


def with_stable_rate(finding: Finding, stability: Stability, *, when: str = "") -> Finding | None:
    """A finding that blames the learning rate, or may have to, with the rate that would have been stable.

    Args:
        finding: of a loss, gradient or weight that overflowed.
        stability: as measured.
        when: at which weights: ``"at the weights of step 400"``.

    Returns:
        ``None`` where the rate is not clearly above the stable one, or no bound is known: that says nothing of the rate
        that the run had at other weights.

    Example:
        >>> from lightning_tuning.trace.stability import Stability
        >>> overflow = Finding("LT701", "non-finite-loss", Severity.ERROR, "the loss is inf", remedy="clip.")
        >>> measured = Stability(80.0, 0.1, 9, "SGD group 0", lr=0.3, bound=2 / 0.3, formula="2 / lr")
        >>> with_stable_rate(overflow, measured).message
        'the loss is inf; lr=0.3 is 12 x the largest stable one, 0.025'
    """
    above = rate_above_stability(stability)
    if above is None:
        return None
    lr, excess, stable = (float(above.evidence[key]) for key in ("lr", "excess", "stable_lr"))
    blunt = CAUSES["learning-rate"].remedy
    sharp = f"lower the learning rate to `lr={stable:.2g}` or less, or warm up to {lr:.3g} over a few hundred steps."
    known = finding.remedy
    return replace(
        finding,
        message=f"{finding.message}; {_compared(lr, excess, stable)}{when and f', {when}'}",
        evidence={**finding.evidence, "lr": lr, "stable_lr": stable, "sharpness": stability.sharpness},
        remedy=known.replace(blunt, sharp)
        if blunt in known
        else f"{known} The largest stable rate is `lr={stable:.2g}`.",
    )


def _compared(lr: float, excess: float, stable: float) -> str:
    return f"lr={lr:.3g} is {excess:.2g} x the largest stable one, {stable:.2g}"


class StabilityJudge:
    """Judges measurement after measurement: three of the last ten make a finding, or a first one far above all bounds.

    Single ones are no illness: of 269 measurements along 57 healthy runs (with Adam and its kin after their first 100
    steps) three were above 1.5 times the bound, by up to 1,850 times where a batch moves what others do not, each in a
    run of its own; the median was .07. Nor does a rate that is too high stay above throughout: it throws the weights to
    where the loss is flat, and on again. But from above six times the bound of the initial weights no net comes to
    rest (12 / sharpness with ReLU, 4 / sharpness without).

    Args:
        excess: see :func:`rate_above_stability`.

    Attributes:
        above: steps of the measurements, of the last ten, that were above; a hopeless first one counts for three.
        seen: steps of the last ten.
    """

    PERSISTENCE = 3
    WINDOW = 10

    def __init__(self, excess: float = EXCESS) -> None:
        self.excess = excess
        self.above: list[int] = []
        self.seen: list[int] = []

    def judge(self, step: int, stability: Stability) -> Finding | None:
        """Take one measurement, made before the optimizer step ``step``."""
        self.seen = [*self.seen[1 - self.WINDOW :], step]
        before = self.above = [earlier for earlier in self.above if earlier >= self.seen[0]]
        finding = rate_above_stability(stability, excess=self.excess)
        if finding is None:
            return None
        hopeless = step == 0 and stability.excess is not None and stability.excess > BEYOND_THE_CATAPULT
        self.above = [*before, *[step] * (self.PERSISTENCE if hopeless else 1)]
        if len(self.above) < self.PERSISTENCE:
            return None
        if len(before) < self.PERSISTENCE:
            return replace(finding, count=self.PERSISTENCE, step=self.above[0])
        return finding
