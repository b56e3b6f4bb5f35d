"""LT413: an SGD learning rate beyond linear scaling, from the first step on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._optimizers import ParameterGroup, by_optimizer

__all__ = ["LT413", "large_batch_lr"]

LT413 = register(
    Rule(
        code="LT413",
        name="large-batch-lr",
        severity=Severity.INFO,
        kind="advice",
        why=(
            "Linear scaling (lr .1 with momentum .9 for 256 samples, k times that for k times as many) holds up to "
            "about 8192 samples and needs a ramp over the first five epochs; far above it the first steps throw the "
            "weights out of the region where they can be trained."
        ),
        remedy="ramp up: `LinearLR(optimizer, start_factor=0.1, total_iters=5 * steps_per_epoch)`, or a smaller lr.",
        source="Goyal et al. 2017, Accurate, Large Minibatch SGD, sections 2.1-2.2",
    )
)

REFERENCE_BATCH = 256
TOLERANCE = 4.0
_LR_PER_STEP = 0.1 / (1 - 0.9)  # what Goyal's lr .1 with momentum .9 comes to in the long run


def large_batch_lr(groups: Sequence[ParameterGroup], batch_size: int) -> list[Finding]:
    """One finding for each SGD whose first steps are more than :data:`TOLERANCE` times as large as linear scaling says.

    Compared is ``lr / (1 - momentum)``. Batches below 256 samples are held to the rule for 256: nothing says that a
    smaller one needs a smaller rate.

    Args:
        groups: before the first step.
        batch_size: samples of one optimizer step, over accumulation and devices; 0 if it is not known.
    """
    if batch_size <= 0:
        return []
    allowed = TOLERANCE * _LR_PER_STEP * max(1.0, batch_size / REFERENCE_BATCH)
    findings = []
    for own in by_optimizer(groups):
        steps = [(_long_run(group), group) for group in own if group.family == "sgd" and not group.warms_up]
        step, group = max(steps, key=lambda pair: pair[0], default=(0.0, own[0]))
        if math.isfinite(step) and step > allowed:
            momentum = group.number("momentum")
            limit = allowed * group.lr / step
            findings.append(
                LT413.finding(
                    f"lr={group.lr:g} with momentum {momentum:g} and no warm-up for {batch_size} samples a step, "
                    f"> {limit:.3g} = {TOLERANCE:g} x linear scaling",
                    where=group.where,
                    evidence={"lr": group.lr, "momentum": momentum, "batch_size": batch_size, "threshold": limit},
                )
            )
    return findings


def _long_run(group: ParameterGroup) -> float:
    """How far the weights go for a unit of gradient that stays the same."""
    momentum = group.number("momentum")
    if not 0 <= momentum < 1:
        return 0.0
    kept = 1 - group.number("dampening") if momentum else 1.0
    return group.lr * kept / (1 - momentum)
