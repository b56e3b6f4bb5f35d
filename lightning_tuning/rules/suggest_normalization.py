"""LT610: a deep plain net whose signal or gradient is measured bad would train with a normalization."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._activation_layers import activation_layers
from lightning_tuning.rules._ops import (
    NORMALIZATIONS,
    RECURRENT_OPS,
    made_of_parameters,
    output_layers,
    weight_layers,
)

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["BAD", "LT610", "suggest_normalization", "weight_depth"]

LT610 = register(
    Rule(
        code="LT610",
        name="suggest-normalisation",
        severity=Severity.INFO,
        kind="advice",
        why=(
            "Each layer multiplies the signal, and the gradient on its way back, by a factor of its own; over eight "
            "layers or more they grow or fade unless something holds them. A normalization after each weight layer "
            "does, and allows rates ten times as high; a residual connection passes both on unchanged."
        ),
        remedy=(
            "a batch norm after each hidden weight layer (`nn.Linear(d, d), nn.BatchNorm1d(d), nn.ReLU()`), or "
            "residual connections (`x = x + block(x)`)."
        ),
        source=(
            "Ioffe & Szegedy 2015, Batch Normalization; He et al. 2016, Deep Residual Learning for Image Recognition"
        ),
    )
)

BAD = {"LT201": "the signal collapses", "LT202": "gradients spread", "LT602": "gradients vanish"}
"""What has to be measured before anybody is told to change the net."""

_DEEP = 8
_OF_A_KIND = frozenset({"selu", "alpha_dropout", "feature_alpha_dropout"})
"""Nets that normalize themselves (Klambauer et al. 2017)."""
_JOINS = frozenset({"add", "sub", "cat", "concat", "stack", "addcmul", "lerp", "where"})


def suggest_normalization(graph: Graph, codes: Collection[str]) -> Finding | None:
    """LT610 for a net of eight weight layers or more, without normalization or residual connection, that does badly.

    A recurrent layer is as deep as its sequence is long; there the place is before the last linear layer, for a batch
    norm within the recurrence would need statistics of its own for each time step. Transformers, nets that normalize
    themselves and those that were not seen whole are left alone.

    Args:
        graph: of a training step.
        codes: of what was found in the run.
    """
    found = sorted(set(codes) & BAD.keys())
    ops = [op for op in graph.ops if graph.reaches_loss(op)]
    if not found or graph.blind or any(op.name in NORMALIZATIONS | _OF_A_KIND for op in ops):
        return None
    if any(layer.kind == "attention" for layer in activation_layers(graph)):
        return None
    recurrent = next((op for op in ops if op.name in RECURRENT_OPS), None)
    depth = weight_depth(graph)
    if recurrent is None and (depth < _DEEP or any(_joins(graph, op) for op in ops)):
        return None
    head = next((op for op in ops if op.index in graph.answer(output_layers)), None)
    reasons = " and ".join(f"{BAD[code]} ({code})" for code in found)
    if recurrent is not None:
        width = "d" if head is None else str(graph.values[head.inputs[0]].shape[-1])
        return LT610.finding(
            f"{recurrent.name} over a sequence with no normalization behind it, and {reasons}",
            where="" if head is None else head.module,
            evidence={"depth": depth, "measured": ", ".join(found)},
            remedy=f"`nn.BatchNorm1d({width})` or `nn.LayerNorm({width})` before the last linear layer.",
        )
    return LT610.finding(
        f"{depth} weight layers in a row with no normalization and no residual connection, and {reasons}",
        evidence={"depth": depth, "threshold": _DEEP, "measured": ", ".join(found)},
    )


def weight_depth(graph: Graph) -> int:
    """The most weight layers on one way to a loss."""
    layers = {op.index for op in graph.answer(weight_layers)}
    depths: dict[int, int] = {}
    for op in graph.ops:
        depth = max((depths.get(value, 0) for value in op.inputs), default=0) + (op.index in layers)
        depths.update(dict.fromkeys(op.outputs, depth))
    return max((depths.get(loss, 0) for loss in graph.losses), default=0)


def _joins(graph: Graph, op: Op) -> bool:
    """Whether two ways through the net meet in ``op``, before its last layer."""
    weights = graph.answer(made_of_parameters)
    read = {value for value in op.inputs if value not in weights and graph.values[value].requires_grad}
    if op.name not in _JOINS or len(read) < 2:
        return False
    layers = {layer.index for layer in graph.answer(weight_layers)}
    return bool(graph.downstream(op) & layers)
