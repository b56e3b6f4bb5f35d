"""LT504: the rate is gone before half of the run."""

from __future__ import annotations

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._schedule import Plan, percent

__all__ = ["LT504", "decays_too_early"]

LT504 = register(
    Rule(
        code="LT504",
        name="decays-too-early",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "Below a hundredth of the rate that was chosen the weights stand still: the rest of the run costs its time "
            "and changes nothing (ExponentialLR(gamma=.95), stepped per batch, is there after 90 batches)."
        ),
        remedy=(
            'decay per epoch (`"interval": "epoch"`), or spread over the run: `gamma ** (1 / steps_per_epoch)`, '
            "milestones and lengths in the unit in which the scheduler is stepped."
        ),
        source="Karpathy 2019, A recipe for training neural networks: decay tuned for other data kills the rate.",
    )
)

_GONE = 0.01
_FEWEST = 4


def decays_too_early(plan: Plan) -> Finding | None:
    """LT504 if every rate falls under 1 % of its highest before half of the run, and stays there.

    Where early stopping may end the run, half of the part is meant that takes place whatever happens.
    """
    curve = plan.certain_curve
    if plan.certain_ticks < _FEWEST or curve.refused_at is not None or not curve.groups:
        return None
    gone = [_gone_at(group) for group in curve.groups]
    latest = max((curve.ticks[index] if index < len(curve.ticks) else plan.ticks) for index in gone)
    if latest >= plan.certain_ticks / 2:
        return None
    highest, last = max(map(max, curve.groups)), max(group[-1] for group in curve.groups)
    unit = "epochs" if plan.interval == "epoch" else "steps"
    return LT504.finding(
        f"the rate is below 1 % of its highest ({highest:.3g}) after {latest * plan.frequency} of {plan.ticks} {unit} "
        f"({percent(latest, plan.ticks)} of the run), and ends at {last:.3g}",
        where=plan.where,
        evidence={"tick": latest, "ticks": plan.ticks, "highest": highest, "last_lr": last, "interval": plan.interval},
    )


def _gone_at(group: list[float]) -> int:
    """The index from which on the rate stays below; the length if it does not."""
    bound = 0.99 * _GONE * max(group)  # .1 * .1 is not below .01
    index = len(group)
    while index > 0 and group[index - 1] < bound:
        index -= 1
    return index
