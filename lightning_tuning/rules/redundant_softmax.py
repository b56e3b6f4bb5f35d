"""LT314: probabilities where a loss wants logits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._head import PICKS, SIGMOIDS, is_softmax, logits_of
from lightning_tuning.rules._loss_terms import LossTerm, loss_terms
from lightning_tuning.rules._ops import MASKS
from lightning_tuning.rules._views import VIEW_OPS, way_back

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT314", "redundant_softmaxes"]

LT314 = register(
    Rule(
        code="LT314",
        name="redundant-softmax",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "A loss that takes logits applies its own softmax or sigmoid. Given probabilities, which differ by 1 at "
            "most, cross entropy cannot fall below ln(e + K - 1) - 1: 1.46 for 10 classes, 5.91 for 1000."
        ),
        remedy="give the loss the raw output: `F.cross_entropy(self.head(x), y)`; keep the softmax for predictions.",
        source="Measured: the bound is the loss of a one-hot output; Humbatova et al. 2020, Taxonomy of Real Faults",
    )
)

_PASSES = VIEW_OPS | PICKS | MASKS | {"mul", "div", "add", "sub", "clamp", "clamp_min", "clamp_max", "log"}


def redundant_softmaxes(graph: Graph) -> list[Finding]:
    """LT314 for each softmax or sigmoid whose output reaches, as it is, a loss that has one of its own.

    Followed are views and operations of one element only, so attention, mixtures and gates (products and sums of two
    activations) are not meant, nor the softened targets of a distillation. A log-softmax before cross entropy changes
    nothing (the softmax of log-probabilities are the probabilities): info.
    """
    found: dict[int, Finding | None] = {}
    for term in graph.answer(loss_terms):
        logits = logits_of(graph, term)
        if logits is None:
            continue
        way = way_back(graph, logits, _PASSES)
        index = next((i for i, op in enumerate(way) if _is_one_too_many(graph, op, term)), None)
        if index is not None:
            has_log = way[index].name == "log_softmax" or any(op.name == "log" for op in way[:index])
            found.setdefault(way[index].index, _finding(graph, way[index], term, is_harmless=has_log))
    return [finding for finding in found.values() if finding is not None]


def _is_one_too_many(graph: Graph, op: Op, term: LossTerm) -> bool:
    if term.kind in ("bce", "bce_logits"):
        return op.name in SIGMOIDS or is_softmax(graph, op)
    return op.name == "log_softmax" or is_softmax(graph, op)


def _finding(graph: Graph, op: Op, term: LossTerm, *, is_harmless: bool) -> Finding | None:
    if is_harmless and term.kind in ("bce", "bce_logits"):
        return None  # log(p) is no logit of p, but no probability either
    shape = graph.values[op.outputs[0]].shape
    if is_softmax(graph, op) and shape and shape[-1] == 1:
        return None  # constant: LT317
    name = op.name if op.name != "div" else "a softmax by hand"
    loss = term.op.name if not term.by_hand else f"a {term.kind} by hand"
    classes = 2 if term.kind in ("bce", "bce_logits") else graph.values[op.outputs[0]].shape[_class_axis(shape)]
    evidence: dict[str, float | int | str] = {"activation": name, "loss": loss, "classes": classes}
    if is_harmless:
        message = f"{name} goes into {loss}, which takes its own: no harm, and no use"
        return LT314.finding(
            message, where=op.module, source_line=op.source_line, evidence=evidence, severity=Severity.INFO
        )
    if term.kind in ("bce", "bce_logits"):
        floor = math.log(2)
        bound = f"a sample of class 0 then costs {floor:.2f} at least"
    else:
        floor = math.log(math.e + classes - 1) - 1
        bound = f"the loss of {classes} classes cannot fall below {floor:.2f}"
    evidence["floor"] = floor
    return LT314.finding(
        f"{name} goes into {loss}, which takes its own: {bound}",
        where=op.module,
        source_line=op.source_line,
        evidence=evidence,
    )


def _class_axis(shape: tuple[int, ...]) -> int:
    return min(1, len(shape) - 1)
