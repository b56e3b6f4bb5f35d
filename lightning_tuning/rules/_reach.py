"""How far the batch and the parameters reach in a graph: which values depend on what."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from lightning_tuning.rules._loss_terms import LossKind, LossTerm, loss_terms
from lightning_tuning.rules._ops import ACTIVATIONS, DROPOUTS, RESHAPES

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["ONE_TO_ONE", "Head", "behind_weights", "from_batch", "heads", "of_parameters"]

ONE_TO_ONE = (
    RESHAPES
    | ACTIVATIONS
    | DROPOUTS
    | {"add", "sub", "mul", "div", "neg", "clamp", "softmax", "log_softmax"}
    | {"getitem", "select", "narrow", "split", "chunk", "unbind"}
)
"""What changes elements one by one, or picks some; no average over positions, no product with weights."""

_TAKES_SHAPE = frozenset({"view_as", "reshape_as", "expand_as", "type_as", "to"})
"""Of a second tensor they take shape or type alone."""

_COMPARES: frozenset[LossKind] = frozenset({"cross_entropy", "nll", "bce", "bce_logits", "mse", "l1"})


@dataclasses.dataclass(frozen=True)
class Head:
    """What lies between a loss and the last operation that mixes elements.

    Attributes:
        term: of the loss.
        ops: from the one that made the prediction back; the last is the first that is not one-to-one, if any.
    """

    term: LossTerm
    ops: tuple[Op, ...]


def from_batch(graph: Graph) -> set[int]:
    """Indices of the values that depend on the batch; ask by ``graph.answer(from_batch)``."""
    return _spread(graph, {value.index for value in graph.values if value.kind == "batch"})


def of_parameters(graph: Graph) -> set[int]:
    """Indices of the values that depend on any parameter; ask by ``graph.answer(of_parameters)``."""
    return _spread(graph, {value.index for value in graph.values if value.kind == "parameter"})


def behind_weights(graph: Graph) -> set[int]:
    """Indices of the values that depend on a parameter of two dimensions or more, or on something not seen into."""
    return _spread(
        graph,
        {value.index for value in graph.values if value.kind == "parameter" and len(value.shape) >= 2},
        opaque=True,
    )


def heads(graph: Graph) -> list[Head]:
    """The way back from each loss that compares a prediction with the batch; ask by ``graph.answer(heads)``.

    Terms whose target a network made (distillation, consistency, embeddings pulled together) are left out, and so are
    those without a target (penalties).
    """
    made = graph.answer(of_parameters)
    return [
        Head(term, tuple(_way_back(graph, term.prediction)))
        for term in graph.answer(loss_terms)
        if term.kind in _COMPARES and term.prediction in made and term.target is not None and term.target not in made
    ]


def _way_back(graph: Graph, value: int) -> list[Op]:
    varies = graph.answer(from_batch)
    way = []
    while (op := graph.producer(value)) is not None:
        way.append(op)
        sources = [source for source in dict.fromkeys(_read_by(op)) if source in varies]
        if op.name not in ONE_TO_ONE or len(sources) != 1:
            break
        (value,) = sources
    return way


def _read_by(op: Op) -> tuple[int, ...]:
    return op.inputs[:1] if op.name in _TAKES_SHAPE else op.inputs


def _spread(graph: Graph, found: set[int], *, opaque: bool = False) -> set[int]:
    for op in graph.ops:
        if (opaque and op.arguments.get("opaque")) or any(value in found for value in _read_by(op)):
            found.update(op.outputs)
    return found
