"""LT104: a class that the model has no output for, or a probability that is none."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._leaves import ancestors

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["BINARY", "CLASSES", "LT104", "TargetRange", "label_out_of_range", "may_be_masked", "target_out_of_range"]

LT104 = register(
    Rule(
        code="LT104",
        name="target-out-of-range",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "A class index of K or more ends the run, on CUDA with a device-side assertion that names neither label "
            "nor line; a binary target outside [0, 1] makes a loss that falls without bound."
        ),
        remedy=(
            "number the classes from 0 to K - 1 (`labels.unique()` shows them) and give the head K outputs; mark what "
            "does not count with `ignore_index`; binary targets are 0 and 1, not -1 and 1 or 1 and 2."
        ),
        source="Humbatova et al. 2020, Taxonomy of Real Faults in Deep Learning Systems; PyTorch, cross_entropy",
    )
)

CLASSES = frozenset({"cross_entropy", "cross_entropy_loss", "nll_loss", "nll_loss_nd", "nll_loss2d"})
BINARY = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})
_ROUNDING = 1e-2
"""What interpolation and half precision may add to a probability of 1."""


@dataclasses.dataclass(frozen=True)
class TargetRange:
    """What the targets of one loss hold, what does not count left out.

    Attributes:
        op: the loss, as it was about to run.
        classes: outputs of the model, ``None`` for probabilities.
        low: smallest target.
        high: largest.
        bad: how many of them are out of range.
        total: how many there are.
        sample: index of the first sample with a bad one.
    """

    op: Op
    classes: int | None
    low: float
    high: float
    bad: int
    total: int
    sample: int


def target_out_of_range(found: TargetRange, target: str) -> Finding | None:
    """LT104 if a target lies outside what the loss takes.

    Args:
        found: as measured.
        target: key path of the targets in the batch, ``""`` if that is not known.
    """
    if found.bad <= 0:
        return None
    if found.classes is None:
        if found.low >= -_ROUNDING and found.high <= 1 + _ROUNDING:
            return None
        allowed = "[0, 1]"
    else:
        allowed = f"[0, {found.classes})"
    what = f"targets {target}" if target else "targets"
    values = f"{found.low:g} to {found.high:g}"
    return LT104.finding(
        f"{found.bad} of {found.total} {what} of {found.op.name} lie outside {allowed}: they go from {values}, the "
        f"first in sample {found.sample}",
        where=target or found.op.module,
        source_line=found.op.source_line,
        evidence={
            "low": found.low,
            "high": found.high,
            "bad": found.bad,
            "total": found.total,
            "first_sample": found.sample,
            **({} if found.classes is None else {"classes": found.classes}),
        },
        remedy=_remedy(found),
    )


def _remedy(found: TargetRange) -> str | None:
    if found.classes is None:
        return f"binary targets are 0 and 1: `y = (y == {found.high:g}).float()`, if {found.high:g} means yes."
    if (found.low, found.high) == (1, found.classes):
        return f"classes count from 0: `y = y - 1` makes 0 to {found.classes - 1} of 1 to {found.classes}."
    return None


def label_out_of_range(name: str, labels: list[int], classes: int, ignored: int, batch: int) -> Finding | None:
    """LT104 of a later batch, from its labels alone.

    Example:
        >>> label_out_of_range("batch[1]", [0, 3, 1], 3, -100, 7).message
        'label 3 in sample 1 of batch 7 lies outside [0, 3)'
        >>> label_out_of_range("batch[1]", [0, -100, 1], 3, -100, 7)
    """
    bad = [index for index, label in enumerate(labels) if label != ignored and not 0 <= label < classes]
    if not bad:
        return None
    return LT104.finding(
        f"label {labels[bad[0]]} in sample {bad[0]} of batch {batch} lies outside [0, {classes})",
        where=name,
        evidence={"label": labels[bad[0]], "classes": classes, "bad": len(bad), "batch": batch, "first_sample": bad[0]},
    )


def may_be_masked(graph: Graph | None, op: Op) -> bool:
    """Whether bad targets of a loss may be marks of missing labels, or no data at all.

    A class that does not exist never is, nor what ``F.binary_cross_entropy`` ends the run for. Elsewhere elements are
    masked by a weight of the target's shape, or after a loss that is not reduced; and targets that the step makes
    itself (a GAN's noisy "real" of 1.2) are its own business.

    Args:
        graph: of the step; ``None`` where the loss ended it.
        op: as it was about to run.
    """
    if op.name not in BINARY:
        return False
    known = None if graph is None or op.index >= len(graph.ops) else graph.ops[op.index]
    if graph is None or known is None or (known.name, known.inputs) != (op.name, op.inputs):
        return op.name != "binary_cross_entropy"
    if op.arguments.get("reduction", "mean") == "none" or len(op.inputs) < 2:
        return True
    target = graph.values[op.inputs[1]]
    if any(len(graph.values[extra].shape) and graph.values[extra].shape == target.shape for extra in op.inputs[2:]):
        return True
    return not any(graph.values[index].kind == "batch" for index in ancestors(graph, {target.index}))
