"""Which tensor of the batch a value is, and which of them the model is fed with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.rules._ops import RESHAPES, weight_layers

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Value

__all__ = ["HOST_READS", "SAME_ELEMENTS", "ancestors", "batch_leaf", "model_inputs"]

SAME_ELEMENTS = RESHAPES | {"detach", "data"}
"""What changes shape or type of a tensor, and neither its elements nor how many there are."""

HOST_READS = frozenset({"item", "numpy", "tolist"})
"""Reads by which numbers leave the graph, to come back as constants that nobody knows the origin of."""


def batch_leaf(graph: Graph, value: int) -> Value | None:
    """The tensor of the batch whose elements ``value`` holds, in whatever shape and type; ``None`` if it holds others.

    Args:
        graph: of the step.
        value: index of a value.
    """
    found = graph.values[value]
    while found.producer is not None:
        maker = graph.ops[found.producer]
        if maker.name not in SAME_ELEMENTS or not maker.inputs:
            return None
        found = graph.values[maker.inputs[0]]
    return found if found.kind == "batch" else None


def ancestors(graph: Graph, values: set[int]) -> set[int]:
    """Indices of all values that ``values`` are made of, themselves included."""
    found, waiting = set(values), list(values)
    while waiting:
        maker = graph.values[waiting.pop()].producer
        if maker is not None:
            fresh = [value for value in graph.ops[maker].inputs if value not in found]
            found.update(fresh)
            waiting += fresh
    return found


def model_inputs(graph: Graph) -> list[Value]:
    """The tensors of the batch that some weight layer on the way to a loss depends on; ask by ``graph.answer``.

    What only the loss compares with (targets), or what nobody reads, is not among them.
    """
    read = {value for op in graph.answer(weight_layers) if graph.reaches_loss(op) for value in op.inputs}
    return [graph.values[value] for value in sorted(ancestors(graph, read)) if graph.values[value].kind == "batch"]
