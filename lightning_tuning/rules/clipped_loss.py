"""LT412: the loss is clipped, where its gradient should be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._loss_reduction import MEANS, SUMS
from lightning_tuning.rules._loss_terms import loss_terms
from lightning_tuning.rules._ops import made_of_parameters

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT412", "clipped_losses"]

LT412 = register(
    Rule(
        code="LT412",
        name="clipped-loss",
        severity=Severity.INFO,
        kind="fact",
        why=(
            "Above its bound a clipped loss has no gradient at all, so the batches that are worst are those that "
            "nothing is learned from."
        ),
        remedy="clip the gradient instead: `Trainer(gradient_clip_val=1.0)`, and give the optimizer the loss itself.",
        source="Karpathy 2019, A Recipe for Training Neural Networks",
    )
)

_CLAMPS = frozenset({"clamp", "clamp_max", "hardtanh", "minimum", "min"})


def clipped_losses(graph: Graph) -> list[Finding]:
    """LT412 for each upper bound on a loss that is reduced already.

    Bounds on elements are a loss of their own kind (Huber, the ratio of PPO), a lower bound on a scalar leaves its
    divergence free bits, and scalars of the weights alone (a temperature) are no loss.
    """
    weights = graph.answer(made_of_parameters)
    reduced = {term.op.index for term in graph.answer(loss_terms)}
    found = []
    for op in graph.find(*_CLAMPS, feeding=True):
        carrying = [index for index in op.inputs if graph.values[index].requires_grad]
        if len(carrying) != 1 or carrying[0] in weights or graph.values[op.outputs[0]].requires_grad is False:
            continue
        bound = _upper_bound(op)
        if bound is None or math.prod(graph.values[carrying[0]].shape) != 1:
            continue
        behind = graph.upstream(graph.values[carrying[0]])
        if not any(index in reduced for index in behind) or not any(_reduces(graph, index) for index in behind):
            continue
        evidence: dict[str, float | int | str] = {"operation": op.name, "bound": bound}
        known = f" at {bound:g}" if isinstance(bound, float) else ""
        message = f"the loss is cut off{known} by {op.name}: above that no gradient is left"
        found.append(LT412.finding(message, where=op.module, source_line=op.source_line, evidence=evidence))
    return found


def _upper_bound(op: Op) -> float | str | None:
    if op.name in ("minimum", "min"):
        return "a tensor" if len(op.inputs) == 2 else None
    bound = op.arguments.get("max_val" if op.name == "hardtanh" else "max")
    return float(bound) if isinstance(bound, int | float) and not isinstance(bound, bool) else None


def _reduces(graph: Graph, index: int) -> bool:
    """Whether the operation puts the elements of a batch together."""
    op = graph.ops[index]
    if not op.outputs or not op.inputs:
        return False
    is_reduction = op.name in MEANS | SUMS or op.name.endswith("_loss") or "cross_entropy" in op.name
    return is_reduction and math.prod(graph.values[op.outputs[0]].shape) == 1
