"""LT512: more than a tenth of the run is spent on the way up."""

from __future__ import annotations

from itertools import pairwise

from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._schedule import Plan, peak_of, percent

__all__ = ["LT512", "warmup_length"]

LT512 = register(
    Rule(
        code="LT512",
        name="warmup-length",
        severity=Severity.INFO,
        kind="advice",
        why=(
            "A warm-up is there to carry the run over the steep start; what it takes beyond that is missing at the "
            "rate that trains. Mostly 1 to 10 % of the run are enough."
        ),
        remedy="`get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=int(0.05 * steps), ...)`.",
        source=(
            "Google's Deep learning tuning playbook: as few warm-up steps as make the run stable, ideally far less "
            "than 10 % of it."
        ),
    )
)

_SHARE = 0.1
_FEWEST_STEPS = 100
"""Optimizer steps of a run below which a tenth of it means nothing."""


def warmup_length(plan: Plan) -> Finding | None:
    """LT512 if every rate climbs, from half of its highest or less, for more than 10 % of the run, and then no more.

    Advice: some recipes take more and do well, so only a run that is not seen to learn hears of it. One-cycle and
    cyclic schedules climb on purpose, runs of less than 100 steps are too short to tell, and of those that early
    stopping may end nobody knows the length.
    """
    if plan.certain_ticks < plan.ticks or (plan.horizon.steps or 0) < _FEWEST_STEPS or not plan.curve.groups:
        return None
    if any(isinstance(span.scheduler, CyclicLR | OneCycleLR) for span in plan.spans(plan.ticks)):
        return None
    lengths = []
    for group in plan.curve.groups:
        top, peak = peak_of(group)
        climb = group[: top + 1]
        if top == len(group) - 1 or group[0] > 0.5 * peak or any(b < a for a, b in pairwise(climb)):
            return None
        lengths.append(plan.curve.ticks[top])
    length = min(lengths)
    if length <= _SHARE * plan.ticks + 1:
        return None
    unit = "epochs" if plan.interval == "epoch" else "steps"
    return LT512.finding(
        f"the rate climbs for {length} of {plan.ticks} {unit}, {percent(length, plan.ticks)} of the run "
        f"(threshold {100 * _SHARE:g} %)",
        where=plan.where,
        evidence={"warmup": length, "ticks": plan.ticks, "threshold": _SHARE, "interval": plan.interval},
    )
