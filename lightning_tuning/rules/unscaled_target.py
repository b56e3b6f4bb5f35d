"""LT109: a regression target whose scale is far from what a fresh output layer gives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._leaves import SAME_ELEMENTS, batch_leaf
from lightning_tuning.rules._loss_terms import LossTerm, loss_terms
from lightning_tuning.rules._ops import SHAPE_OPS, place, weight_layers

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT109", "is_fresh", "regressions", "unscaled_target"]

LT109 = register(
    Rule(
        code="LT109",
        name="unscaled-target",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "A fresh output layer answers about 0 with a spread of about 1. Under the squared error a target of 10000 "
            "gives gradients of that size, and Adam, whose steps are of the size of its learning rate, needs millions "
            "of them to get there."
        ),
        remedy=(
            "train on `(y - mean) / std` of the training set and scale the answers back, or begin at the mean: "
            "`nn.init.constant_(head.bias, y_mean)`."
        ),
        source="Bishop 1995, Neural Networks for Pattern Recognition, section 8.2; LeCun et al. 1998",
    )
)

_LARGE = 100.0
_FEWEST = 8
_SMALL_FACTOR = 0.1
_PASSES = SAME_ELEMENTS | {"getitem", "select", "relu", "softplus", "leaky_relu", "elu"}


def regressions(graph: Graph) -> list[tuple[str, LossTerm, Op]]:
    """Squared and absolute errors of a target that is a tensor of the batch, with the layer that predicts it.

    Losses that are multiplied by a factor of a tenth or less, or by a tensor, are scaled, and left out; and so are
    predictions that are put on the target's scale after the last layer.
    """
    layers = {op.index for op in graph.answer(weight_layers)}
    found = []
    for term in graph.answer(loss_terms):
        leaf = None if term.target is None else batch_leaf(graph, term.target)
        if term.kind not in ("mse", "l1") or leaf is None or leaf.name is None or not leaf.dtype.is_floating_point:
            continue
        layer = _last_layer(graph, term.prediction, layers)
        if layer is not None and not _is_scaled(graph, term.op):
            found.append((leaf.name, term, layer))
    return found


def _last_layer(graph: Graph, value: int, layers: set[int]) -> Op | None:
    while (made_by := graph.values[value].producer) is not None:
        maker = graph.ops[made_by]
        if maker.index in layers:
            return maker
        if maker.name not in _PASSES or not maker.inputs:
            return None
        value = maker.inputs[0]
    return None


def _is_scaled(graph: Graph, term: Op) -> bool:
    """Whether something makes the loss small on its way to the end."""
    waiting, seen = [term], {term.index}
    while waiting:
        for child in graph.children(waiting.pop()):
            if child.index in seen or not graph.reaches_loss(child):
                continue
            seen.add(child.index)
            if child.name in ("mul", "div") and child.inputs != (child.inputs[0],) * 2:
                factor = child.arguments.get("other")
                if len(child.inputs) > 1 or not isinstance(factor, int | float) or not factor:
                    return True
                if abs(factor if child.name == "mul" else 1 / factor) <= _SMALL_FACTOR:
                    return True
            elif child.name not in SHAPE_OPS | {"add", "sub", "square", "abs", "pow", "mul", "sum", "mean", "nanmean"}:
                return True
            waiting.append(child)
    return False


def is_fresh(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether an output layer is as torch initializes it, or smaller: within 1 / sqrt(fan in). Reads both back."""
    if weight.numel() == 0:
        return False
    bound = 1.01 / math.sqrt(max(1, weight[0].numel()))
    return all(float(part.detach().abs().max()) <= bound for part in (weight, bias) if part is not None)


def unscaled_target(where: str, layer: Op, target: Tensor) -> Finding | None:
    """LT109 if the target is larger or further from 0 than a fresh ``layer`` can answer.

    Args:
        where: key path of the target.
        layer: that predicts it.
        target: its values in one batch. They are read back.
    """
    values = target.detach().double().flatten()
    values = values[values.isfinite()]
    if len(values) < _FEWEST:
        return None
    mean, std = float(values.mean()), float(values.std())
    if std > _LARGE:
        fault = f"std {std:.4g} > {_LARGE:g}"
    elif std > 0 and abs(mean) > _LARGE * std:
        fault = f"mean {mean:.4g} is {abs(mean) / std:.0f} > {_LARGE:g} standard deviations from 0"
    else:
        return None
    return LT109.finding(
        f"regression target {where}: {fault}, while the output layer {place(layer)} is fresh",
        where=where,
        source_line=layer.source_line,
        evidence={"mean": mean, "std": std, "threshold": _LARGE, "count": len(values)},
    )
