"""LT305: a dropout directly before a nonlinearity that saturates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._masks import masks
from lightning_tuning.rules._ops import RESHAPES, place
from lightning_tuning.rules.dropout_on_output import output_masks

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT305", "dropouts_before_saturation"]

LT305 = register(
    Rule(
        code="LT305",
        name="dropout-before-saturation",
        severity=Severity.INFO,
        kind="fact",
        why=(
            "A zero before a sigmoid or softmax is no zero behind it (.5, or a share of the weights), and the values "
            "kept are scaled by 1/(1-p) into the flat ends. For ReLU-like functions the order makes no difference."
        ),
        remedy="dropout behind the activation: `nn.Sequential(nn.Linear(i, o), nn.Tanh(), nn.Dropout(p))`.",
        source="Srivastava et al. 2014, Dropout, section 4: the mask is laid on the outputs of the units",
    )
)

_SATURATES = frozenset({"sigmoid", "tanh", "softmax", "log_softmax", "logsigmoid", "hardsigmoid", "hardtanh"})


def dropouts_before_saturation(graph: Graph) -> list[Finding]:
    """LT305 for each active dropout whose result, reshaped at most, goes into sigmoid, tanh or softmax.

    Quiet for ReLU-likes, for ``x * sigmoid(x)`` written by hand, and on the output, which is LT304's.
    """
    on_output = graph.answer(output_masks)
    findings = []
    for mask in graph.answer(masks):
        if mask.inside or mask.op.index in on_output or not graph.reaches_loss(mask.op):
            continue
        activation = next((op for op in _next(graph, mask.op) if op.name in _SATURATES), None)
        if activation is None or _is_gated_by_itself(graph, mask.op, activation):
            continue
        findings.append(
            LT305.finding(
                f"dropout (p={mask.p:g}) directly before {activation.name} {place(activation)}: "
                f"its zeros come out as {_of_zero(activation.name)}",
                where=mask.op.module,
                source_line=mask.op.source_line,
                evidence={"p": mask.p, "activation": activation.name, "activation_at": place(activation)},
            )
        )
    return findings


def _of_zero(activation: str) -> str:
    if activation in ("softmax", "log_softmax"):
        return "a share like any other"
    return "0, but what is kept is scaled into saturation" if activation in ("tanh", "hardtanh") else "0.5"


def _next(graph: Graph, op: Op) -> list[Op]:
    """The operations that read the result of ``op``, seen through those that reshape it."""
    found, waiting = [], graph.children(op)
    while waiting:
        child = waiting.pop()
        if child.name in RESHAPES:
            waiting += graph.children(child)
        else:
            found.append(child)
    return sorted(found, key=lambda child: child.index)


def _is_gated_by_itself(graph: Graph, dropout: Op, activation: Op) -> bool:
    """Whether the dropped values are multiplied by their own sigmoid (SiLU by hand): no saturation for large ones."""
    gated = {child.index for child in graph.children(activation) if child.name == "mul"}
    return any(child.index in gated for child in graph.children(dropout))
