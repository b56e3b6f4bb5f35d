"""LT303: a dropout that drops too much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._masks import Mask, masks
from lightning_tuning.rules._ops import place
from lightning_tuning.rules._reach import behind_weights, from_batch

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT303", "dropout_rates"]

LT303 = register(
    Rule(
        code="LT303",
        name="dropout-rate",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "torch's p is the probability of a zero, other libraries take the probability to keep: a keep "
            "probability passed as p drops most of the signal. Usual are .5 behind wide fully connected layers, 0 to "
            ".2 at the input, .1 in transformers; p = 1 lets nothing through."
        ),
        remedy="`nn.Dropout(p=1 - keep_probability)`; at most .5 inside, at most .2 at the input.",
        source="Srivastava et al. 2014, Dropout, section 7.3 and appendix A.4; torch.nn.Dropout on the meaning of p",
    )
)

_INSIDE, _AT_INPUT = 0.5, 0.2


def dropout_rates(graph: Graph) -> list[Finding]:
    """LT303 for each rate that is too high: ``p >= 1`` anywhere, ``p > .5`` inside, ``p > .2`` on the batch itself.

    Quiet for alpha dropout, for dropouts that no loss depends on, and for masks that are augmentation: made of
    constants, or laid on a tensor of the batch whose clean values, or another mask of them, the loss sees too
    (denoising, reconstruction, two views).
    """
    varies = graph.answer(from_batch)
    groups: dict[tuple[Severity, float, bool], list[Mask]] = {}
    for mask in graph.answer(masks):
        if not graph.reaches_loss(mask.op) or not varies.intersection(mask.op.inputs):
            continue
        at_input = not mask.inside and is_at_input(graph, mask.op)
        severity = _severity(mask.p, at_input=at_input)
        if severity is None or (mask.p < 1 and at_input and _is_augmentation(graph, mask.op)):
            continue
        groups.setdefault((severity, mask.p, at_input), []).append(mask)
    return [_finding(severity, found, at_input=at_input) for (severity, _, at_input), found in groups.items()]


def is_at_input(graph: Graph, op: Op) -> bool:
    """Whether ``op`` is given batch data that no weight has touched yet."""
    return bool(op.inputs) and op.inputs[0] not in graph.answer(behind_weights)


def _severity(p: float, *, at_input: bool) -> Severity | None:
    if p >= 1:
        return Severity.ERROR
    if p > _INSIDE:
        return Severity.WARNING
    return Severity.INFO if at_input and p > _AT_INPUT else None


def _is_augmentation(graph: Graph, op: Op) -> bool:
    """Whether something else on the way to a loss reads what this dropout masks."""
    on_the_way = {op.index, *graph.upstream(op)}
    sources = {source for index in on_the_way for source in graph.ops[index].inputs}
    varies = graph.answer(from_batch)
    return any(
        reader.index not in on_the_way and graph.reaches_loss(reader)
        for source in sources & varies
        for reader in graph.consumers(source)
    )


def _finding(severity: Severity, found: list[Mask], *, at_input: bool) -> Finding:
    first, p = found[0].op, found[0].p
    where = "on the input " if at_input else ""
    more = f", likewise in {len(found) - 1} more" if len(found) > 1 else ""
    allowed = _AT_INPUT if severity is Severity.INFO else _INSIDE
    if severity is Severity.ERROR:
        message = f"dropout p={p:g} {where}zeroes everything: neither signal nor gradient passes {place(first)}{more}"
    else:
        doubt = f"; is {p:g} a keep probability?" if severity is Severity.WARNING else ""
        message = f"dropout p={p:g} > {allowed:g} {where}zeroes {p:.0%} of the values in every step{doubt}{more}"
    keep = f"{1 - p:.2g}" if p < 1 else "0.5"
    remedy = (
        f"if {p:g} was meant to be kept: `p={keep}`."
        if severity is Severity.WARNING
        else "`p=0.1`, at most 0.2 at the input."
        if severity is Severity.INFO
        else "`nn.Dropout(p=0.5)`, or remove it: p is the probability of a zero."
    )
    return LT303.finding(
        message,
        where=first.module,
        source_line=first.source_line,
        severity=severity,
        evidence={"p": p, "threshold": 1.0 if severity is Severity.ERROR else allowed, "dropouts": len(found)},
        remedy=remedy,
    )
