"""LT312: a batch norm that takes the sequence for the channels, because both are of one length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._norms import BatchNorm, batch_norms
from lightning_tuning.rules._ops import ACTIVATIONS, DROPOUTS, RECURRENT_OPS, place

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT312", "wrong_axes"]

LT312 = register(
    Rule(
        code="LT312",
        name="batchnorm-axis",
        severity=Severity.INFO,
        kind="fact",
        why=(
            "BatchNorm1d takes [N, C] or [N, C, L]: given [N, L, C] with L equal to C it does not complain, and "
            "normalizes each position over all features."
        ),
        remedy="`norm(x.transpose(1, 2)).transpose(1, 2)`, or `nn.LayerNorm(features)`.",
        source="torch.nn.BatchNorm1d, shape",
    )
)

_FEATURES_LAST = frozenset({"linear", "matmul", "embedding", "layer_norm", "rms_norm"}) | RECURRENT_OPS
"""What makes its features along the last dimension."""

_KEEPS_AXES = ACTIVATIONS | DROPOUTS | {"add", "sub", "mul", "div", "contiguous", "clone", "to", "float"}


def wrong_axes(graph: Graph) -> list[Finding]:
    """LT312 for batch norms over dimension 1 of what has its features last, where both are of one size.

    Quiet wherever a transposition, a reshape or anything unknown lies between.
    """
    return [
        LT312.finding(
            f"the batch norm is given {list(norm.input.shape)} from {maker.name} {place(maker)}, whose features are "
            f"the last dimension; it takes dimension 1, of the same size {norm.input.shape[1]}, for them",
            where=norm.op.module,
            source_line=norm.op.source_line,
            evidence={"shape": str(list(norm.input.shape)), "channels": norm.input.shape[1], "made_by": maker.name},
        )
        for norm in graph.answer(batch_norms)
        if norm.is_training and (maker := _maker(graph, norm)) is not None
    ]


def _maker(graph: Graph, norm: BatchNorm) -> Op | None:
    shape = norm.input.shape
    if len(shape) < 3 or shape[1] != shape[-1] or shape[1] == 1:
        return None
    op = graph.producer(norm.input)
    while op is not None and op.name in _KEEPS_AXES and op.inputs:
        same = [value for value in op.inputs if graph.values[value].shape == shape]
        op = graph.producer(same[0]) if same else None
    return op if op is not None and op.name in _FEATURES_LAST else None
