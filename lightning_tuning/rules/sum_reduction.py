"""LT410: a loss that is the sum over the samples of a batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._loss_terms import loss_terms

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["LT410", "sum_reduction"]

LT410 = register(
    Rule(
        code="LT410",
        name="sum-reduction",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "The gradient of a sum grows with the batch (norm 33 at 16 samples, 842 at 4096; of a mean 2.05 and .21), "
            "so learning rate and clipping fit one batch size only: this is the core of 'a large batch gives NaN'."
        ),
        remedy='average over the samples: `reduction="mean"`, or `loss / len(x)`.',
        source="Measured on small nets, torch 2.13: gradient norm at initialisation by batch size",
    )
)


def sum_reduction(graph: Graph) -> Finding | None:
    """LT410 if the loss is one comparison with the batch's targets, summed over its samples and divided by nothing.

    Losses of several terms (an ELBO, detectors, actor-critic) and weighted or masked ones set their scale on purpose,
    or in a way that a graph does not tell.
    """
    terms = graph.answer(loss_terms)
    if len(terms) != 1 or graph.blind:
        return None
    (term,) = terms
    shape = graph.values[term.prediction].shape
    if term.reduction != "sum" or term.kind == "other" or term.is_weighted or not shape or shape[0] < 2:
        return None
    if term.target is None or not _is_given(graph, term.target):
        return None
    return LT410.finding(
        f"the loss is the sum over {shape[0]} samples ({math.prod(shape)} elements), not their mean",
        where=term.op.module,
        source_line=term.op.source_line,
        evidence={"samples": shape[0], "elements": math.prod(shape), "loss": term.kind},
    )


def _is_given(graph: Graph, index: int) -> bool:
    """The target comes with the batch and from no net."""
    value = graph.values[index]
    behind = [graph.ops[op] for op in graph.upstream(value)]
    if any(op.parameters for op in behind):
        return False
    sources = {value.kind, *(graph.values[source].kind for op in behind for source in op.inputs)}
    return "batch" in sources
