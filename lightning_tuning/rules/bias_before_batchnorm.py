"""LT310: a bias that the next batch norm subtracts again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._norms import batch_norms
from lightning_tuning.rules._ops import WEIGHT_OPS, place

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT310", "cancelled_biases"]

LT310 = register(
    Rule(
        code="LT310",
        name="bias-before-batchnorm",
        severity=Severity.INFO,
        kind="advice",
        why=(
            "The batch norm subtracts its channel's mean, and the bias with it: it costs memory and weight decay, gets "
            "no gradient but rounding errors, and the batch norm's own shift does its work."
        ),
        remedy="`nn.Conv2d(..., bias=False)`, `nn.Linear(..., bias=False)`.",
        source="Ioffe and Szegedy 2015, Batch Normalization, section 3.2",
    )
)


def cancelled_biases(graph: Graph) -> Finding | None:
    """LT310 for the trainable biases of weight layers that feed nothing but a batch norm on batch statistics."""
    found = [
        (op, bias, norm.op)
        for norm in graph.answer(batch_norms)
        if norm.is_training
        and (op := graph.producer(norm.input)) is not None
        and len(graph.consumers(norm.input)) == 1
        and (bias := _bias(graph, op)) is not None
    ]
    biases = dict.fromkeys(bias for _, bias, _ in found)
    if not found:
        return None
    op, bias, norm_op = found[0]
    return LT310.finding(
        f"the batch norm {place(norm_op)} subtracts the bias of {place(op)} again{_likewise(len(biases))}",
        where=bias,
        source_line=op.source_line,
        evidence={"bias": bias, "batch_norm": place(norm_op), "biases": len(biases)},
    )


def _likewise(biases: int) -> str:
    return f" ({biases - 1} more likewise)" if biases > 1 else ""


def _bias(graph: Graph, op: Op) -> str | None:
    """The name of the trainable bias of a weight layer."""
    if op.name not in WEIGHT_OPS:
        return None
    for value in (graph.values[index] for index in op.inputs):
        if value.kind == "parameter" and len(value.shape) == 1 and value.requires_grad and value.name:
            return value.name
    return None
