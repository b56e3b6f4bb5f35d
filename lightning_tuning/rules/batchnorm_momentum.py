"""LT313: a batch norm whose momentum was meant for another library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._norms import BatchNorm, batch_norms, counter_of, more, read_counters
from lightning_tuning.rules._ops import place

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["LT313", "high_momenta", "is_cumulative"]

LT313 = register(
    Rule(
        code="LT313",
        name="batchnorm-momentum",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "torch's momentum is the weight of the new value, TensorFlow's that of the old one: with .9 the running "
            "statistics are those of the last batch or two, and evaluation inherits their noise (a small MobileNetV2, "
            "momentum .997 against .1, loss in evaluation: .44 against .21 at batch 8; .06 against .18 at batch 32, "
            "where one batch says enough: information there)."
        ),
        remedy="`nn.BatchNorm2d(channels, momentum=0.1)`, which is .9 in TensorFlow's terms.",
        source="torch.nn.BatchNorm2d, note on momentum; the harm measured by batch size",
    )
)

_HIGH = 0.9
_ENOUGH = 32
"""Samples in a batch whose statistics alone evaluate no worse than an average over batches (see the rule's figures)."""


def high_momenta(graph: Graph) -> Finding | None:
    """LT313 if batch norms that train and track take .9 or more of each new value.

    Quiet for the cumulative average (``momentum=None``), whose first weight is 1, and for running statistics that are
    no buffers (thrown away after the step). Information where every batch holds :data:`_ENOUGH` samples.
    """
    found = [
        norm
        for norm in graph.answer(batch_norms)
        if norm.is_training
        and norm.is_tracking
        and isinstance(momentum := norm.op.arguments.get("momentum"), int | float)
        and momentum >= _HIGH
        and not is_cumulative(graph, norm)
    ]
    if not found:
        return None
    op, momentum = found[0].op, float(found[0].op.arguments["momentum"])
    samples = min(graph.values[norm.op.inputs[0]].shape[0] for norm in found)
    return LT313.finding(
        f"momentum {momentum:g} >= 0.9 of {place(op)}{more(len({norm.identity for norm in found}))}: "
        f"{momentum:.0%} of the running statistics are the last batch's",
        where=op.module,
        source_line=op.source_line,
        evidence={
            "momentum": momentum,
            "threshold": _HIGH,
            "samples": samples,
            "batch_norms": len({norm.identity for norm in found}),
        },
        severity=Severity.INFO if samples >= _ENOUGH else None,
        remedy=f"`momentum={1 - momentum:.3g}`." if momentum < 1 else "`momentum=0.1`.",
    )


def is_cumulative(graph: Graph, norm: BatchNorm) -> bool:
    """Whether the batch norm averages all batches alike (``momentum=None``): it reads how many there were."""
    return counter_of(norm) in graph.answer(read_counters)
