"""What stands between the last weights and a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.rules._ops import MASKS, NORMALIZATIONS, WEIGHT_OPS, weight_layers
from lightning_tuning.rules._views import VIEW_OPS, way_back

if TYPE_CHECKING:
    from lightning_tuning.rules._loss_term import LossTerm
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["PICKS", "SIGMOIDS", "comes_from_weights", "is_softmax", "logits_of"]

PICKS = frozenset({"getitem", "select", "narrow", "index_select"})

SIGMOIDS = frozenset({"sigmoid", "hardsigmoid"})

_ALIKE = VIEW_OPS | PICKS | {"clamp", "clamp_min", "clamp_max", "add", "sub"}


def is_softmax(graph: Graph, op: Op) -> bool:
    """Whether ``op`` is a softmax, or ends one written by hand: ``e = x.exp(); e / e.sum(1, keepdim=True)``."""
    if op.name == "softmax":
        return True
    if op.name != "div" or len(op.inputs) != 2:
        return False
    above, total = (graph.producer(index) for index in op.inputs)
    return (
        above is not None
        and above.name == "exp"
        and total is not None
        and total.name == "sum"
        and total.arguments.get("dim") is not None
        and total.inputs[0] == op.inputs[0]
    )


def logits_of(graph: Graph, term: LossTerm) -> int | None:
    """Index of the value that a loss of classes takes for logits, before the softmax or sigmoid that belongs to it.

    ``None`` where the loss is no such loss or has no such operation.
    """
    if term.kind in ("cross_entropy", "bce_logits"):
        return term.prediction
    if term.kind not in ("nll", "bce"):
        return None
    wanted = {"log_softmax"} if term.kind == "nll" else SIGMOIDS
    way = way_back(graph, term.prediction, _ALIKE)
    return way[-1].inputs[0] if way and way[-1].name in wanted else None


def comes_from_weights(graph: Graph, value: int) -> Op | None:
    """The weight layer whose output ``value`` is, up to views, biases, masks and normalization; ``None`` if none is."""
    way = way_back(graph, value, _ALIKE | MASKS | NORMALIZATIONS | {"mul", "div"})
    if not way or way[-1].name not in WEIGHT_OPS or way[-1] not in graph.answer(weight_layers):
        return None
    return way[-1]
