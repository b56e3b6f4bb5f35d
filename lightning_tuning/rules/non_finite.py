"""LT701, LT702, LT703: a loss, a gradient or a weight is not finite."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._bad_step import BadStep
from lightning_tuning.rules._growth import Blame, Pace, blame_growth, grew, row
from lightning_tuning.rules._remedies import REMEDIES, START_AGAIN, remedy_for, remedy_for_weights

if TYPE_CHECKING:
    from lightning_tuning.trace.nonfinite import Origin

__all__ = ["LT701", "LT702", "LT703", "REMEDIES", "BadStep", "Pace", "broken_weights", "is_of_growth", "judge_bad_step"]

_SOURCE = (
    "Google tuning playbook, 'How can optimization failures be debugged and mitigated?'; IEEE 754: NaN and infinity "
    "carry through every later sum"
)

LT701 = register(
    Rule(
        code="LT701",
        name="non-finite-loss",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "One update from a loss of NaN or infinity makes every weight NaN that it reaches, and the run is lost. "
            "Causes: a bad sample, a log of 0, an overflow (exp above 88.7 in float32, 11.1 in "
            "float16), a division by 0, a mean over nothing, weights that ran away before."
        ),
        remedy="mend what is named; `NanLossGuard(action='skip')` drops such batches.",
        source=_SOURCE,
    )
)

LT702 = register(
    Rule(
        code="LT702",
        name="non-finite-gradient",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "The loss is finite, its gradient is not: a sqrt or norm at 0, a power, a `where` whose unused branch is "
            "NaN. The loss looks well in every curve until the update makes the weights NaN."
        ),
        remedy="add an eps inside the sqrt, norm or division, or mask before it instead of after it.",
        source=_SOURCE,
    )
)

LT703 = register(
    Rule(
        code="LT703",
        name="non-finite-weight",
        severity=Severity.ERROR,
        kind="fact",
        why="A weight of NaN or infinity makes every later loss so; nothing in the run can bring it back.",
        remedy=START_AGAIN,
        source=_SOURCE,
    )
)

_OF_GROWTH = frozenset({"overflow", "half-overflow", "exp-overflow", "unknown-op", "unknown"})
"""Causes that are themselves effects, where something grew before."""


def judge_bad_step(step: BadStep) -> Finding:
    """The finding on a bad batch: LT703 if its weights were broken before it, else LT701 for its loss, else LT702.

    Raises:
        ValueError: if nothing in ``step`` is bad.

    Example:
        >>> judge_bad_step(BadStep(losses=(0.7, float("nan")), blind="not replayed")).headline()
        'LT701 non-finite-loss: the loss is nan: not replayed'
        >>> judge_bad_step(BadStep(losses=(0.7,), gradients=("net.0.weight",))).code
        'LT702'
    """
    if step.weights:
        when = f"before batch {step.batch_idx}"
        return broken_weights(step.weights, when=when, norms=step.norms, step=step.step, blame=_blame(step))
    if step.bad_loss is not None:
        rule, what = LT701, f"the loss is {step.bad_loss}"
    elif step.gradients:
        rule, what = LT702, f"the loss is finite, the gradient of {_listed(step.gradients)} is not"
    else:
        raise ValueError("`step` must have a loss, gradient or weight that is not finite, got none.")
    blame = _blame(step)
    cause = _found(step) if blame is None else blame.cause
    whose = "" if step.rank is None else f" on rank {step.rank}"
    return rule.finding(
        f"{what}{whose}: {_reason(step, blame)}",
        where=_where(step.origin),
        evidence=_evidence(step, cause) | dict(blame.evidence if blame else {}),
        remedy=remedy_for(cause, step.origin, step=step.step),
        source_line=None if step.origin is None else step.origin.source_line,
    )


def is_of_growth(step: BadStep) -> bool:
    """Whether the cause that a replay found may itself be the effect of updates before; their story is worth a look."""
    return bool(step.weights) or _found(step) in _OF_GROWTH


def broken_weights(
    names: Sequence[str],
    *,
    when: str,
    norms: Sequence[float] = (),
    step: int = 0,
    pace: Pace | None = None,
    blame: Blame | None = None,
) -> Finding:
    """LT703, for parameters that are not finite.

    Args:
        names: their dotted names, at least one, in the module's order.
        when: ends the sentence: ``"before the first step"``, ``"at the end of epoch 3"``.
        norms: global gradient norms of the last healthy updates.
        step: ``trainer.global_step``; before the first update there is no training to blame, and the remedy differs.
        pace: how far the last updates moved the weights.
        blame: what made them grow. Default: what ``norms`` and ``pace`` tell.

    Example:
        >>> broken_weights(["net.0.weight"], when="before the first step").headline()
        'LT703 non-finite-weight at net.0.weight: net.0.weight is not finite before the first step'
    """
    blame = blame or blame_growth(norms, pace)
    cause = "bad-weights" if blame is None else blame.cause
    message = f"{_listed(names)} {'is' if len(names) == 1 else 'are'} not finite {when}"
    evidence: dict[str, float | int | str] = {
        "cause": cause,
        "step": step,
        "parameters": len(names),
        **_trend(norms),
        **(blame.evidence if blame else {}),
    }
    return LT703.finding(
        message if blame is None else f"{message}; {blame.words}",
        where=names[0],
        evidence=evidence,
        remedy=remedy_for_weights(cause, step=step),
    )


def _found(step: BadStep) -> str:
    return "unknown" if step.origin is None else step.origin.cause


def _blame(step: BadStep) -> Blame | None:
    if not is_of_growth(step):
        return None
    return blame_growth(step.norms, step.pace, stale_updates=step.stale_updates, summed=step.summed)


def _reason(step: BadStep, blame: Blame | None) -> str:
    growth = "" if blame is None else blame.words
    if step.origin is None:
        return growth or step.blind or "the step was not replayed"
    if step.origin.kind == "not-reproduced" and grew(step.norms):
        growth = f"gradients grew before: {row(step.norms)}"
    # The finding has place and line of its own.
    reason = dataclasses.replace(step.origin, module=None, source_line=None)
    sentence = reason.sentence(
        batch_idx=step.batch_idx, dataset_indices=step.dataset_indices, dataset_doubt=step.dataset_doubt
    )
    return f"{sentence}; {growth}" if growth else sentence


def _where(origin: Origin | None) -> str:
    if origin is None:
        return ""
    return origin.names[0] if origin.names else origin.module or ""


def _evidence(step: BadStep, cause: str) -> dict[str, float | int | str]:
    evidence: dict[str, float | int | str | None] = {
        "cause": cause,
        "step": step.step,
        "batch_idx": step.batch_idx,
        "loss": step.losses[-1] if step.losses and step.bad_loss is None else step.bad_loss,
        "parameters": len(step.gradients) or None,
        "rank": step.rank,
        "blind": step.blind or None,
        **_trend(step.norms),
    }
    origin = step.origin
    if origin is not None:
        evidence |= {
            "origin": origin.cause,
            "op": origin.op,
            "node": origin.node,
            "detail": origin.detail or None,
            "value": origin.value,
            "bad": origin.bad or None,
            "total": origin.total or None,
            "input_min": origin.input_min,
            "input_max": origin.input_max,
            "sample": origin.samples[0] if origin.samples else None,
            "samples": ", ".join(map(str, origin.samples[:20])) or None,
            "dataset_indices": ", ".join(map(str, step.dataset_indices[:20])) or None,
            "dataset_doubt": step.dataset_doubt or None,
            "tries": origin.tries if origin.tries > 1 else None,
        }
    return {key: value for key, value in evidence.items() if value is not None}


def _trend(norms: Sequence[float]) -> dict[str, float | int | str]:
    return {"grad_norms_before": row(norms)} if norms else {}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    more = len(names) - 3
    return shown if more <= 0 else f"{shown} and {more} more parameter{'' if more == 1 else 's'}"
