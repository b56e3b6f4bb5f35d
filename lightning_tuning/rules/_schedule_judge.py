"""Everything that the curve of a schedule tells, asked at once: LT501-LT504, LT510, LT512."""

from __future__ import annotations

from collections.abc import Iterator

from lightning_tuning.findings import Finding
from lightning_tuning.rules._schedule import Plan
from lightning_tuning.rules.decays_too_early import decays_too_early
from lightning_tuning.rules.lambda_absolute import lambda_absolute
from lightning_tuning.rules.schedule_interval import schedule_interval
from lightning_tuning.rules.schedule_never_decays import schedule_never_decays
from lightning_tuning.rules.schedule_rises_again import schedule_rises_again
from lightning_tuning.rules.warmup_length import warmup_length

__all__ = ["judge_schedule"]

_MISFITS = (schedule_interval, schedule_rises_again, decays_too_early, schedule_never_decays)
"""The ways in which a schedule misses its run; the first one that applies explains the others."""


def judge_schedule(plan: Plan) -> Iterator[Finding]:
    """What is wrong with ``plan``.

    Raises:
        CannotCopyError: if the scheduler cannot be run on paper.

    Example:
        >>> import torch
        >>> from lightning_tuning.rules._schedule import Horizon
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
        >>> plan = Plan(scheduler, "CosineAnnealingLR", "epoch", 1, Horizon(epochs=5, batches=4))
        >>> [(finding.code, round(finding.evidence["last_lr"], 3)) for finding in judge_schedule(plan)]
        [('LT501', 0.085)]
        >>> plan = Plan(scheduler, "CosineAnnealingLR", "step", 1, Horizon(epochs=5, batches=4))
        >>> list(judge_schedule(plan))
        []
    """
    if (absolute := lambda_absolute(plan.scheduler, plan.where, plan.curve)) is not None:
        yield absolute
    # One that raises in mid-run has no end to be judged by.
    rules = _MISFITS if plan.curve.refused_at is None else _MISFITS[:1]
    misfit = next((finding for rule in rules if (finding := rule(plan)) is not None), None)
    if misfit is not None:
        yield misfit
    elif plan.curve.refused_at is None and (warmup := warmup_length(plan)) is not None:
        yield warmup
