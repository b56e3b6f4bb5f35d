"""The last layer before a loss, and what its targets are in the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning_tuning.rules._loss_terms import LossTerm, loss_terms
from lightning_tuning.rules._ops import RECURRENT_OPS, RESHAPES, weight_layers

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["OutputLayer", "lone_term", "only_output_layer", "target_name", "targets_of"]

_SAME_NUMBERS = RESHAPES | {"detach", "data"}
"""What leaves mean, variance and counts of a tensor as they are."""

_LINKS = {"nll": "log_softmax", "bce": "sigmoid"}
_KEEPS = _SAME_NUMBERS | {"mean", "nanmean", "sum", "neg", "square", "pow", "abs", "gather", "getitem", "logsumexp"}


@dataclasses.dataclass(frozen=True)
class OutputLayer:
    """The layer whose outputs, and nothing else, are compared with the targets.

    Attributes:
        term: the comparison.
        op: the weight layer.
        classes: how many numbers it gives for each target.
        factor: by which the mean over the comparisons is multiplied to give the loss (a half, or Lightning's division
            by the batches that it accumulates).
    """

    term: LossTerm
    op: Op
    classes: int
    factor: float = 1.0


def only_output_layer(graph: Graph) -> OutputLayer | None:
    """The output layer, if the loss is one mean, unweighted comparison of a weight layer's outputs with targets.

    None for composite losses, several backward passes, sums, penalties, and predictions that are not a layer's own
    (similarities, residuals, squashed images): what such a loss starts with nobody knows. Ask by ``graph.answer``.
    """
    lone = graph.answer(lone_term)
    if lone is None or lone[0].is_weighted:
        return None
    term, factor = lone
    layers = {op.index for op in graph.answer(weight_layers)}
    maker = graph.producer(term.prediction)
    while maker is not None and maker.index not in layers:
        passes = maker.name in _SAME_NUMBERS or maker.name == _LINKS.get(term.kind)
        maker = graph.producer(maker.inputs[0]) if passes and maker.inputs else None
    if maker is None or maker.name in RECURRENT_OPS:
        return None
    shape = graph.values[maker.outputs[0]].shape
    classes = shape[1] if maker.name.startswith("conv") else shape[-1]
    compared = graph.values[term.prediction].shape
    if term.kind in ("cross_entropy", "nll") and term.op.name in ("cross_entropy", "nll_loss") and len(compared) > 1:
        classes = compared[1] if compared[1] == classes else 0
    return OutputLayer(term, maker, classes, factor) if classes else None


def lone_term(graph: Graph) -> tuple[LossTerm, float] | None:
    """The comparison whose mean, times a factor, is the whole loss; ``None`` where it is made of more than that."""
    terms = graph.answer(loss_terms)
    if graph.blind or len(terms) != 1 or len(graph.losses) != 1:
        return None
    (term,) = terms
    factor = _factor(graph, term)
    return None if term.reduction != "mean" or factor is None else (term, factor)


def _factor(graph: Graph, term: LossTerm) -> float | None:
    """What the mean of the comparisons is multiplied by; ``None`` where the loss is made of more than that."""
    behind = [term.op, *(graph.ops[i] for i in sorted(graph.downstream(term.op)) if graph.reaches_loss(i))]
    made = {value for op in behind for value in op.outputs}
    if graph.losses[0] not in made:
        return None
    factor = 1.0
    for op in behind[1:]:
        others = [value for value in op.inputs if value not in made and value != term.target]
        if any(graph.values[value].requires_grad for value in others):
            return None
        scale = op.arguments.get("other")
        if op.name in ("mul", "div") and len(op.inputs) == 1 and isinstance(scale, int | float) and scale > 0:
            factor *= scale if op.name == "mul" else 1 / scale
            continue
        picks = op.name == "mul" and not others and term.target in op.inputs  # by a one-hot target
        if op.name not in _KEEPS and not picks:
            return None
    return factor


def target_name(graph: Graph, term: LossTerm) -> str | None:
    """The key path of the batch tensor that ``term`` compares with, up to its shape and type; ``None`` if computed."""
    value = None if term.target is None else graph.values[term.target]
    while value is not None and value.kind != "batch":
        maker = graph.producer(value)
        passes = maker is not None and maker.name in _SAME_NUMBERS and bool(maker.inputs)
        value = graph.values[maker.inputs[0]] if maker is not None and passes else None
    return None if value is None else value.name


def targets_of(graph: Graph, term: LossTerm, batch: Mapping[str, Tensor]) -> Tensor | None:
    """The batch tensor of :func:`target_name`."""
    name = target_name(graph, term)
    return None if name is None else batch.get(name)
