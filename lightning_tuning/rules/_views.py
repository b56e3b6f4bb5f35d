"""Going back from a value: over what changes only how it is laid out, or over operations of one's choice."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from lightning_tuning.rules._ops import RESHAPES, made_of_parameters

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["VIEW_OPS", "behind_views", "sole_activation", "way_back"]

VIEW_OPS = RESHAPES | {"expand", "expand_as"}
"""Shape and type: every element stays what it was (``expand`` repeats it)."""


def behind_views(graph: Graph, value: int) -> int:
    """Index of the value that ``value`` is a view, a copy or a cast of; itself where it is none."""
    while (maker := graph.producer(value)) is not None and maker.name in VIEW_OPS and maker.inputs:
        value = maker.inputs[0]
    return value


def sole_activation(graph: Graph, op: Op) -> int | None:
    """Index of the one input of ``op`` that comes from the net and carries a gradient; ``None`` where two meet."""
    weights = graph.answer(made_of_parameters)
    found = {index for index in op.inputs if graph.values[index].requires_grad and index not in weights}
    return found.pop() if len(found) == 1 else None


def way_back(graph: Graph, value: int, passes: Collection[str]) -> list[Op]:
    """The operations from ``value`` backward, the nearest first.

    Goes on over those that are of ``passes`` and have one input from the net; the first other one ends the list.
    """
    way: list[Op] = []
    at: int | None = value
    while at is not None and (op := graph.producer(at)) is not None:
        way.append(op)
        at = sole_activation(graph, op) if op.name in passes else None
    return way
