"""How the elements of a loss are put together on their way to the scalar that goes backward."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_tuning.rules._loss_term import Reduction
from lightning_tuning.rules._ops import ELEMENTWISE_OPS, SHAPE_OPS

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["MEANS", "SUMS", "later_reduction", "reduced_axes"]

MEANS = frozenset({"mean", "nanmean"})
SUMS = frozenset({"sum", "nansum"})

_PASSES = (ELEMENTWISE_OPS | SHAPE_OPS | MEANS | SUMS | {"masked_select", "nan_to_num", "take_along_dim"}) - {
    "cat", "concat", "stack", "hstack", "vstack", "index_select"
}  # fmt: skip


def later_reduction(graph: Graph, value: int, first: str = "none") -> tuple[Reduction, bool]:
    """How the samples in ``value`` are reduced on all ways to the loss, and whether they get weights there.

    Args:
        graph: of the step.
        value: index of the elements, or of what ``first`` has made of them.
        first: how the loss function itself has reduced them.

    Returns:
        ``"sum"`` only where the samples are summed and nothing divides after; ``"mean"`` likewise, or a sum divided by
        what may be their number; ``"unknown"`` where ways differ.
    """
    if first == "mean":
        return "mean", False
    reductions = {"sum"} if first == "sum" else set()
    counts = {math.prod(graph.values[index].shape[:1]) for index in _sources(graph, value)} if first == "sum" else set()
    divided, scaled, weighted, lost = False, False, False, False
    for op in _way_to_loss(graph, value):
        if op.name in MEANS | SUMS:
            if _over_samples(graph, op):
                reductions.add("mean" if op.name in MEANS else "sum")
                shape = graph.values[op.inputs[0]].shape
                counts |= {shape[0], math.prod(shape)}
        elif op.name in ("div", "mul"):
            others = _other_operands(graph, op)
            factor = op.arguments.get("other")
            scalars = [index for index in others if math.prod(graph.values[index].shape) == 1]
            weighted |= len(scalars) < len(others)
            if op.name == "div":
                divided |= bool(others) or factor in counts - {1}
                scaled |= isinstance(factor, int | float) and factor != 1
            else:
                scaled |= bool(scalars) or (isinstance(factor, int | float) and abs(factor) < 1)
        elif op.name not in _PASSES:
            lost = True
        weighted |= op.name in ("where", "masked_fill", "masked_select") or _picks_by_mask(graph, op)
    return _verdict(reductions, divided=divided, scaled=scaled, lost=lost), weighted


def _verdict(reductions: set[str], *, divided: bool, scaled: bool, lost: bool) -> Reduction:
    if lost or len(reductions) > 1:
        return "unknown"
    if not reductions:
        return "none"
    if reductions == {"mean"}:
        return "mean"
    if divided:
        return "mean"
    return "unknown" if scaled else "sum"


def reduced_axes(graph: Graph, op: Op) -> set[int]:
    """The axes of its input that a reduction takes away."""
    rank = len(graph.values[op.inputs[0]].shape)
    dim = op.arguments.get("dim")
    if dim is None or dim == ():
        return set(range(rank))
    return {axis % rank for axis in (dim if isinstance(dim, tuple) else (dim,)) if rank}


def _over_samples(graph: Graph, op: Op) -> bool:
    shape = graph.values[op.inputs[0]].shape
    return bool(shape) and shape[0] > 1 and 0 in reduced_axes(graph, op)


def _way_to_loss(graph: Graph, value: int) -> list[Op]:
    """The operations between ``value`` and the losses, in order."""
    ways = graph.downstream(graph.values[value])
    return [graph.ops[index] for index in sorted(ways) if graph.reaches_loss(index)]


def _other_operands(graph: Graph, op: Op) -> list[int]:
    """The tensors that a term is multiplied with or divided by: those that carry no gradient, or all but the first."""
    carrying = [index for index in op.inputs if graph.values[index].requires_grad]
    return [index for index in dict.fromkeys(op.inputs) if index not in carrying[:1]]


def _picks_by_mask(graph: Graph, op: Op) -> bool:
    return op.name == "getitem" and any("bool" in str(graph.values[index].dtype) for index in op.inputs[1:])


def _sources(graph: Graph, value: int) -> tuple[int, ...]:
    maker = graph.producer(value)
    return () if maker is None else maker.inputs
