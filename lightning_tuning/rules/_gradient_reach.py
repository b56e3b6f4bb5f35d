"""How far the gradient of the losses reaches, on autograd's own flags."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["CUTS", "READS", "GradientReach", "gradient_reach"]

CUTS = frozenset({"detach", "data", "tensor", "as_tensor"})
"""Give the same numbers without their history, even if the result asks for gradients itself."""

READS = frozenset({"item", "numpy", "tolist"})
"""Take numbers out of the graph."""


@dataclasses.dataclass(frozen=True)
class GradientReach:
    """What gets a gradient.

    Attributes:
        values: indices of the values.
        parameters: dotted names of the parameters among them.
    """

    values: frozenset[int]
    parameters: frozenset[str]


def gradient_reach(graph: Graph) -> GradientReach:
    """What gets a gradient from any loss of the step; ask by ``graph.answer(gradient_reach)``."""
    seen = {index for index in graph.losses if graph.values[index].requires_grad}
    waiting = list(seen)
    while waiting:
        op = graph.producer(waiting.pop())
        if op is None or op.name in CUTS:
            continue
        fresh = [index for index in op.inputs if graph.values[index].requires_grad and index not in seen]
        seen.update(fresh)
        waiting += fresh
    names = (graph.values[index].name for index in seen if graph.values[index].kind == "parameter")
    return GradientReach(frozenset(seen), frozenset(name for name in names if name is not None))
