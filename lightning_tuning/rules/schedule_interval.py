"""LT501: a schedule whose length is counted in one unit, and stepped in the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR, SequentialLR

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._schedule import Plan, peak_of, percent
from lightning_tuning.rules._schedule_curve import Curve

__all__ = ["LT501", "schedule_interval"]

LT501 = register(
    Rule(
        code="LT501",
        name="schedule-interval",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "Lightning steps a scheduler once per epoch unless told otherwise. A length counted in batches is then "
            "hardly begun when the run ends (a cosine with T_max=20 over 5 epochs of 4 batches ends at .085 of .1), a "
            "warm-up counted in batches never over; counted in epochs and stepped per batch, it is over in the first."
        ),
        remedy=(
            '`{"scheduler": scheduler, "interval": "step"}` with lengths in optimizer steps '
            '(`self.trainer.estimated_stepping_batches`), `"interval": "epoch"` with lengths in epochs.'
        ),
        source="Lightning's `configure_optimizers`: interval 'epoch' is the default; simulated and measured.",
    )
)

_FEW = 4
"""Steps per epoch below which the two units are too close to be told apart."""


def schedule_interval(plan: Plan) -> Finding | None:
    """LT501 if ``plan`` is counted in another unit than it is stepped in, or ends before the run does with an error.

    Per epoch where batches were meant: the length that was declared is more than twice the ticks of the run and fits
    its optimizer steps (half to twice of them); or, for schedules without one (``LambdaLR``, ``SequentialLR``), stepped
    once per batch it would end with the run, while as it is the run ends before the rate has moved. ``StepLR``,
    ``MultiStepLR`` and ``ExponentialLR`` fit any length: they are LT502's and LT504's.

    Per batch where epochs were meant: the schedule is through before half of the run, after as many steps as the run
    has epochs (half to twice of them).
    """
    if plan.curve.refused_at is not None:
        return _refused(plan)
    if plan.ticks == 0 and plan.frequency > 1:
        return _never(plan)
    per_epoch = plan.horizon.steps_per_epoch
    if per_epoch is None or per_epoch < _FEW or plan.frequency != 1:
        return None
    return _batches_meant(plan) if plan.interval == "epoch" else _epochs_meant(plan)


def _refused(plan: Plan) -> Finding | None:
    """A ``OneCycleLR`` raises when it is stepped once more than it was told."""
    steps = plan.ticks
    for span in plan.spans(steps):
        if isinstance(span.scheduler, OneCycleLR) and span.ticks > span.scheduler.total_steps:
            total = span.scheduler.total_steps
            return LT501.finding(
                f"OneCycleLR(total_steps={total}) will be stepped {span.ticks} times (interval={plan.interval!r}), and "
                f"raises ValueError at step {total + 1}",
                where=plan.where,
                severity=Severity.ERROR if plan.certain_ticks > total else None,
                evidence={"total_steps": total, "ticks": span.ticks, "interval": plan.interval},
                remedy=f"`total_steps={span.ticks}` (for interval 'step': `self.trainer.estimated_stepping_batches`).",
            )
    return None


def _never(plan: Plan) -> Finding | None:
    """Its frequency never comes round."""
    horizon = plan.horizon
    if horizon.ticks(plan.interval, 1) == 0:
        return None
    unit, there = (
        ("epochs", horizon.epochs or 0) if plan.interval == "epoch" else ("batches in an epoch", horizon.batches or 0)
    )
    if plan.frequency > 100 * max(1, there):
        return None  # a way to say that it is stepped by hand
    accumulated = f", of which every {horizon.accumulate}th makes a step" if horizon.accumulate > 1 else ""
    return LT501.finding(
        f"frequency={plan.frequency} with interval={plan.interval!r} never comes round in {there} {unit}"
        f"{accumulated}: it is not stepped at all",
        where=plan.where,
        evidence={"frequency": plan.frequency, "interval": plan.interval, "available": there},
        remedy=f'`"frequency"` at most {there}: it counts {unit}.',
    )


def _batches_meant(plan: Plan) -> Finding | None:
    steps, per_epoch = plan.horizon.steps, plan.horizon.steps_per_epoch
    if steps is None or per_epoch is None or not all(_has_not_fallen(group) for group in plan.curve.groups):
        return None
    spans = plan.spans(plan.ticks)
    for span in spans:
        if not span.is_last or span.length is None:
            continue
        name, length = span.length
        is_ramp = isinstance(span.scheduler, LinearLR) and not span.falls
        fits = 0.5 * per_epoch <= length <= steps if is_ramp else 0.5 * steps <= length <= 2 * steps
        if length > 2 * span.ticks and fits:
            return _too_slow(
                plan,
                f"{type(span.scheduler).__name__}({name}={length}) is stepped once per epoch, {_times(plan.ticks)} in "
                f"this run of {steps} optimizer steps: it is at {percent(span.ticks, length)} of its way when the run "
                f"ends (lr {_last(plan.curve):.3g})",
                length,
            )
    if isinstance(plan.scheduler, SequentialLR) or any(isinstance(span.scheduler, LambdaLR) for span in spans):
        stepped = plan.longer(steps)
        if _fits(plan.curve, stepped, steps):
            return _too_slow(
                plan,
                f"{plan.where} is stepped once per epoch, {_times(plan.ticks)}, and ends at {_last(plan.curve):.3g}; "
                f"stepped in each of the run's {steps} optimizer steps it would reach "
                f"{max(map(max, stepped.groups)):.3g} and end at {_last(stepped):.3g}",
                steps,
            )
    return None


def _too_slow(plan: Plan, message: str, length: int) -> Finding:
    return LT501.finding(
        message,
        where=plan.where,
        evidence={
            "length": length,
            "ticks": plan.ticks,
            "steps": plan.horizon.steps or 0,
            "interval": plan.interval,
            "last_lr": _last(plan.curve),
        },
        remedy='`{"scheduler": scheduler, "interval": "step"}`, or the length in epochs.',
    )


def _epochs_meant(plan: Plan) -> Finding | None:
    epochs = plan.horizon.epochs
    if epochs is None or epochs < 2:
        return None
    for span in plan.spans(plan.certain_ticks):
        name, length = span.length or ("milestones", span.last_milestone)
        if length is None or not span.is_last or not (span.falls or span.length is None):
            continue
        if 2 * length < span.ticks and 0.5 * epochs <= length <= 2 * epochs:
            return LT501.finding(
                f"{type(span.scheduler).__name__}({name}={length}) is stepped once per batch, and through after "
                f"{length} of {plan.ticks} steps; this run has {epochs} epochs",
                where=plan.where,
                evidence={"length": length, "ticks": plan.ticks, "epochs": epochs, "interval": plan.interval},
                remedy='`"interval": "epoch"`, or lengths out of `self.trainer.estimated_stepping_batches`.',
            )
    return None


def _fits(stepped_per_epoch: Curve, stepped: Curve, steps: int) -> bool:
    """Stepped per batch the rate is up before half time, and gone at the end; or it is up at all, as it is never now.

    Exponential decay that ends at 2 % has 14 % at half time, and is left alone.
    """
    if stepped.refused_at is not None or not stepped.groups:
        return False
    half = next(i for i, tick in enumerate(stepped.ticks) if tick >= steps / 2)
    for group, now in zip(zip(*stepped.rates, strict=True), zip(*stepped_per_epoch.rates, strict=True), strict=True):
        if max(group) <= 0:
            continue
        top, peak = peak_of(group)
        is_over = group[-1] <= 0.02 * peak and group[half] >= 0.2 * peak
        climbs = any(after > before + 0.01 * peak for before, after in pairwise(group[top:]))
        if top >= half or climbs or not (is_over or max(now) <= 0.1 * peak):
            return False
    return True


def _has_not_fallen(group: Sequence[float]) -> bool:
    top, peak = peak_of(group)
    return min(group[top:]) > 0.5 * peak


def _last(curve: Curve) -> float:
    return max(curve.rates[-1])


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
