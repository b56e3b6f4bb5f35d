"""The output layer whose bias can be set to the prior of its targets, as the trace shows it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from lightning_tuning.rules._loss_terms import LossKind, loss_terms
from lightning_tuning.rules._output_layer import lone_term, only_output_layer, target_name

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["PriorHead", "prior_head"]

_CLASSES = ("cross_entropy", "nll")
_KINDS = (*_CLASSES, "bce", "bce_logits", "mse", "l1")


@dataclasses.dataclass(frozen=True)
class PriorHead:
    """The bias in front of a loss, and the targets that it should know.

    Attributes:
        bias: name of the parameter.
        weight: name of the weight beside it; empty where that is computed from others.
        units: how many numbers it holds.
        kind: of the loss.
        target: key path in the batch.
        axis: of the targets, along which ``bias`` lies; ``None`` where it is one number, or they are class indices.
        ignore_index: class that does not count.
        label_smoothing: of the loss.
    """

    bias: str
    weight: str
    units: int
    kind: LossKind
    target: str
    axis: int | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0


def prior_head(graph: Graph) -> PriorHead | str:
    """The bias that a prior can be put into, or one reason why there is none; ask by ``graph.answer(prior_head)``."""
    layer = graph.answer(only_output_layer)
    if layer is None:
        return _why_none(graph)
    term = layer.term
    if term.kind not in _KINDS:
        return "a prior is not known for a loss of this kind"
    name = target_name(graph, term)
    if name is None or term.target is None:
        return "the targets of the loss are computed in the step"
    parameters = {v.name: v for v in (graph.values[i] for i in layer.op.inputs) if v.kind == "parameter" and v.name}
    bias = next((name for name, value in parameters.items() if len(value.shape) == 1), None)
    if bias is None:
        return "the output layer has no bias of its own"
    units = parameters[bias].shape[0]
    if units != layer.classes:
        return "the output layer's bias is not one number for each output"
    weight = next((name for name, value in parameters.items() if len(value.shape) >= 2), "")
    target = graph.values[term.target]
    axis = None
    if term.kind in _CLASSES:
        if target.dtype.is_floating_point:
            return "the targets are probabilities, not classes"
        if units < 2:
            return "the output layer has a single class"
    elif units > 1:
        shapes = [graph.values[index].shape for index in (layer.op.outputs[0], term.prediction, term.target)]
        shapes += [value.shape for value in graph.values if value.kind == "batch" and value.name == name]
        if len(set(shapes)) > 1:
            return "which output belongs to which target cannot be told by their shapes"
        axis = len(shapes[0]) - 1
        if layer.op.name.startswith("conv"):
            axis = 1
    return PriorHead(
        bias=bias,
        weight=weight,
        units=units,
        kind=term.kind,
        target=name,
        axis=axis,
        ignore_index=term.ignore_index,
        label_smoothing=term.label_smoothing if term.kind == "cross_entropy" else 0.0,
    )


def _why_none(graph: Graph) -> str:
    """Why :func:`only_output_layer` found none."""
    terms = graph.answer(loss_terms)
    if graph.blind:
        return "part of the step could not be seen"
    if not graph.losses:
        return "the step had no loss"
    if len(graph.losses) > 1:
        return "the step has several losses"
    if not terms:
        return "the loss is not one that is known"
    if len(terms) > 1:
        return "the loss is a sum of several terms"
    if terms[0].is_weighted:
        return "the loss weighs its classes or samples"
    if graph.answer(lone_term) is None:
        return "the loss is not the mean of one comparison"
    return "the loss does not compare a layer's own outputs"
