"""LT502: the rate was to come down, and the run is over before it does."""

from __future__ import annotations

from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingWarmRestarts, CyclicLR, ExponentialLR, MultiplicativeLR

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._schedule import Plan, peak_of, percent

__all__ = ["LT502", "schedule_never_decays"]

LT502 = register(
    Rule(
        code="LT502",
        name="schedule-never-decays",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "A decay that begins after the run is over does nothing: the run ends at the rate at which it explored, "
            "where the weights still jump about the minimum, and gives away the gain of the last, small steps."
        ),
        remedy="milestones and lengths within the run: `CosineAnnealingLR(optimizer, T_max=self.trainer.max_epochs)`.",
        source="Simulated over the run's own length; a rate never below half of its highest has not decayed.",
    )
)

_AHEAD = 4
"""How many times the run's length is looked ahead for the decay of a schedule that declares no length."""

_ENDLESS = (CosineAnnealingWarmRestarts, CyclicLR, ConstantLR, ExponentialLR, MultiplicativeLR)
"""Not made to be over at a given time."""


def schedule_never_decays(plan: Plan) -> Finding | None:
    """LT502 if the rate stays above half of its highest, though a decay was configured for later.

    Configured is a decay whose first milestone, or whose declared length, lies beyond the run; for other schedules
    (``LambdaLR``), one that comes down to 2 % within four times the run. Gentle decay without an end
    (``ExponentialLR``), constant rates, cycles and restarts are no decay that was missed. A scheduler that is stepped
    once (a run of one epoch) is nobody's plan, and left alone.
    """
    if plan.ticks < 2 or plan.curve.refused_at is not None:
        return None
    groups = [group[:-1] for group in plan.curve.groups]  # the last tick comes after the last step
    if not groups or any(min(group[peak_of(group)[0] :]) <= 0.5 * max(group) for group in groups):
        return None
    last = max(group[-1] for group in groups)
    spans = plan.spans(plan.ticks)
    for span in spans:
        called = type(span.scheduler).__name__
        if span.is_last and span.first_milestone is not None and span.first_milestone >= span.ticks:
            return _finding(plan, f"{called} first lowers the rate at {{}} {span.first_milestone}", last)
        if span.is_last and span.length is not None and span.falls and span.length[1] > span.ticks:
            name, length = span.length
            return _finding(plan, f"{called}({name}={length}) is at {percent(span.ticks, length)} of its way", last)
    known = [span for span in spans if span.length or span.first_milestone or isinstance(span.scheduler, _ENDLESS)]
    if len(known) < len(spans) and (tick := _falls_at(plan)) is not None:
        return _finding(plan, f"{plan.where} lowers the rate until {{}} {tick}", last)
    return None


def _finding(plan: Plan, what: str, last: float) -> Finding:
    unit = "epoch" if plan.interval == "epoch" else "step"
    return LT502.finding(
        f"{what.format(unit)}, this run has {plan.ticks}: it ends at lr {last:.3g}, the highest is "
        f"{max(max(group) for group in plan.curve.groups):.3g}",
        where=plan.where,
        evidence={"ticks": plan.ticks, "last_lr": last, "interval": plan.interval},
    )


def _falls_at(plan: Plan) -> int | None:
    curve = plan.longer(_AHEAD * plan.ticks)
    for group in curve.groups:
        top, peak = peak_of(group)
        low = next((i for i in range(top, len(group)) if group[i] <= 0.02 * peak), None)
        if low is None:
            return None
        tick = curve.ticks[low]
    return tick if curve.groups and tick > plan.ticks else None
