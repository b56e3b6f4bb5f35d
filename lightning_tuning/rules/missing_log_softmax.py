"""LT315: a loss of (log-)probabilities that is given something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Op

__all__ = ["LT315", "no_log_probabilities", "no_probabilities"]

LT315 = register(
    Rule(
        code="LT315",
        name="missing-log-softmax",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "nll_loss only picks an element and turns its sign, so of raw logits it falls for ever without the net "
            "learning anything; binary_cross_entropy refuses what is no probability."
        ),
        remedy=(
            "`F.cross_entropy(logits, y)` in place of nll_loss, `F.binary_cross_entropy_with_logits(logits, y)` in "
            "place of binary_cross_entropy; both take raw outputs."
        ),
        source="torch's documentation of NLLLoss and BCELoss",
    )
)

_TOLERANCE = 0.1
"""In log-probability; bf16 log-probabilities sum to 1 within .02."""


def no_log_probabilities(op: Op, off: float, largest: float) -> Finding | None:
    """LT315 if what ``nll_loss`` was given are no log-probabilities.

    Args:
        op: the loss.
        off: median over the rows of abs(log sum exp), which is 0 for log-probabilities (so rows that padding has
            emptied do not count).
        largest: of all elements.
    """
    if not off > _TOLERANCE:
        return None
    sign = f"reach {largest:.3g} > 0" if largest > 0 else "are negative, as they should be"
    return LT315.finding(
        f"{op.name} takes log-probabilities; these {sign}, and half of the rows have abs(log(sum(exp))) > {off:.3g} "
        "in place of 0",
        where=op.module,
        source_line=op.source_line,
        evidence={"log_sum_exp": off, "largest": largest, "threshold": _TOLERANCE, "loss": op.name},
        remedy="`F.cross_entropy(logits, y)`, which takes raw outputs, or `F.log_softmax(logits, dim=1)` before.",
    )


def no_probabilities(op: Op, smallest: float, largest: float) -> Finding | None:
    """LT315 if what ``binary_cross_entropy`` is given lies outside [0, 1]; exactly 0 and 1 are probabilities."""
    if not (smallest < 0 or largest > 1):
        return None
    return LT315.finding(
        f"{op.name} takes probabilities; these reach from {smallest:.3g} to {largest:.3g}",
        where=op.module,
        source_line=op.source_line,
        evidence={"smallest": smallest, "largest": largest, "loss": op.name},
        remedy="`F.binary_cross_entropy_with_logits(logits, y)`, which takes raw outputs.",
    )
