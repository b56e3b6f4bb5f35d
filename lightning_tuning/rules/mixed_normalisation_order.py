"""LT311: some blocks normalize before the activation, others after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._norms import batch_norms
from lightning_tuning.rules._ops import ACTIVATIONS, WEIGHT_OPS, place

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT311", "mixed_orders"]

LT311 = register(
    Rule(
        code="LT311",
        name="mixed-normalisation-order",
        severity=Severity.INFO,
        kind="advice",
        why=(
            "Weight, batch norm, activation and weight, activation, batch norm both work, and which is better is "
            "contested; a net that does both was most likely put together by mistake."
        ),
        remedy="one order for all blocks, for one the original: `nn.Conv2d(...), nn.BatchNorm2d(c), nn.ReLU()`",
        source="Ioffe and Szegedy 2015, Batch Normalization, section 3.2 (before the activation), contested since",
    )
)

_HIDDEN = ACTIVATIONS - {"sigmoid", "hardsigmoid", "logsigmoid", "glu"}
"""Gates are no activations of a block."""

_BLOCKS = 2


def mixed_orders(graph: Graph) -> Finding | None:
    """LT311 if two blocks or more are of each order.

    A block is a weight layer, a batch norm and an activation in direct sequence, so that pre-activation nets, whose
    activations feed weight layers, have one order, and a single odd stem or head does not count.
    """
    before: list[Op] = []
    after: list[Op] = []
    for norm in graph.answer(batch_norms):
        maker = graph.producer(norm.input)
        if maker is None:
            continue
        if maker.name in WEIGHT_OPS and any(child.name in _HIDDEN for child in graph.children(norm.op)):
            before.append(norm.op)
        elif maker.name in _HIDDEN and maker.inputs:
            weight = graph.producer(maker.inputs[0])
            if weight is not None and weight.name in WEIGHT_OPS:
                after.append(norm.op)
    if min(len({op.module for op in before}), len({op.module for op in after})) < _BLOCKS:
        return None
    odd, usual = (after, before) if len(after) <= len(before) else (before, after)
    orders = ("before", "after") if odd is before else ("after", "before")
    return LT311.finding(
        f"{place(odd[0])} and {len(odd) - 1} more normalize {orders[0]} the activation, {place(usual[0])} and "
        f"{len(usual) - 1} more {orders[1]} it",
        where=odd[0].module,
        source_line=odd[0].source_line,
        evidence={"before_activation": len(before), "after_activation": len(after)},
    )
