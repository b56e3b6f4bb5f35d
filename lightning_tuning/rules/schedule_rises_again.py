"""LT503: a cosine that is stepped on past its end climbs back."""

from __future__ import annotations

from itertools import pairwise

from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._schedule import Plan, peak_of, percent

__all__ = ["LT503", "schedule_rises_again"]

LT503 = register(
    Rule(
        code="LT503",
        name="schedule-rises-again",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "CosineAnnealingLR has no restarts: after T_max ticks the rate climbs back along the same cosine (its "
            "period is 2 * T_max), and a run that ends on the way up ends at a high rate and with the worse model."
        ),
        remedy=(
            "`T_max` = the number of scheduler steps in the run (less those of a warm-up); for restarts "
            "`CosineAnnealingWarmRestarts`."
        ),
        source="torch.optim.lr_scheduler.CosineAnnealingLR; Loshchilov & Hutter 2017, SGDR, have jumps, not climbs.",
    )
)

_CLIMB = 0.1
"""Of the highest rate; a cosine gains it back after 1.2 T_max, so that being off by some steps is no finding."""


def schedule_rises_again(plan: Plan) -> Finding | None:
    """LT503 if a ``CosineAnnealingLR`` gets so many ticks that it climbs back by a tenth of the highest rate.

    A ``LambdaLR`` is taken for a cosine by its curve: one valley, near zero, then a smooth climb on which the run ends.
    Restarts (jumps), cycles and one-cycle schedules are meant.
    """
    curve = plan.certain_curve
    if curve.refused_at is not None or not curve.groups:
        return None
    climbs = [_climb(group[:-1]) for group in curve.groups]  # the last tick comes after the last step
    if any(climb is None for climb in climbs):
        return None
    for span in plan.spans(plan.certain_ticks):
        if isinstance(span.scheduler, CosineAnnealingLR) and span.ticks > span.scheduler.T_max:
            where = f"CosineAnnealingLR(T_max={span.scheduler.T_max}) is stepped {span.ticks} times"
            return _finding(plan, where, climbs)
    if isinstance(plan.scheduler, LambdaLR) and all(_is_one_cosine(group[:-1]) for group in curve.groups):
        return _finding(plan, f"{plan.where} comes down once in {plan.ticks} steps", climbs)
    return None


def _finding(plan: Plan, what: str, climbs: list[tuple[float, float, float] | None]) -> Finding:
    low, high, peak = max((climb for climb in climbs if climb is not None), key=lambda climb: climb[2])
    return LT503.finding(
        f"{what}: the rate falls to {low:.3g} and climbs back to {high:.3g}, {percent(high, peak)} of the highest",
        where=plan.where,
        evidence={"lowest": low, "climbs_to": high, "highest": peak, "ticks": plan.ticks},
        remedy=f"`T_max={plan.ticks}` (less the steps of a warm-up); for restarts `CosineAnnealingWarmRestarts`.",
    )


def _climb(group: list[float]) -> tuple[float, float, float] | None:
    """Low, high and the highest rate of the largest climb after the first peak."""
    if not group:
        return None
    top, peak = peak_of(group)
    low, best = peak, (peak, peak)
    for rate in group[top:]:
        low = min(low, rate)
        if rate - low > best[1] - best[0]:
            best = low, rate
    return (*best, peak) if best[1] - best[0] > _CLIMB * peak else None


def _is_one_cosine(group: list[float]) -> bool:
    top, peak = peak_of(group)
    valley = min(range(top, len(group)), key=lambda i: group[i])
    climb = group[valley:]
    if group[valley] > 0.1 * peak or len(climb) < 4:
        return False
    steps = [after - before for before, after in pairwise(climb)]
    return min(steps) >= 0 and max(steps) < 0.5 * (climb[-1] - climb[0])
