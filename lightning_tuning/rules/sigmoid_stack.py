"""LT319: layer upon layer that squashes, and nothing that brings the signal back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._ops import MASKS, WEIGHT_OPS, main_input, place, weight_layers
from lightning_tuning.rules._views import VIEW_OPS, way_back

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT319", "sigmoid_stacks"]

LT319 = register(
    Rule(
        code="LT319",
        name="sigmoid-stack",
        severity=Severity.INFO,
        kind="advice",
        why=(
            "A sigmoid's slope is 1/4 at most, and next to 0 beyond +-4, so each layer takes three quarters of the "
            "gradient or more; tanh saturates likewise, from +-2 on."
        ),
        remedy="`nn.ReLU()` or `nn.GELU()` in the hidden layers, or a normalization before each activation.",
        source="Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks",
    )
)

_SQUASHES = frozenset({"sigmoid", "tanh"})
_ENOUGH = 3
_PASSES = VIEW_OPS | MASKS | {
    "add", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
}  # fmt: skip


def sigmoid_stacks(graph: Graph) -> list[Finding]:
    """LT319 for each chain of three or more weight layers with a sigmoid or tanh behind each and a layer after.

    A gate (multiplied with something), a recurrent cell, an output activation and anything with a normalization or a
    skip between is no such chain. A net whose inputs ask for gradients (physics-informed) needs smooth activations.
    """
    before: dict[int, Op] = {}
    for layer in graph.answer(weight_layers):
        squash = _squash_before(graph, layer) if layer.name in WEIGHT_OPS and graph.reaches_loss(layer) else None
        if squash is not None:
            before[layer.index] = squash
    chains: dict[int, list[Op]] = {}
    for index, squash in before.items():
        fed_by = _layer_before(graph, squash)
        if fed_by is not None:
            chains[index] = [*chains.get(fed_by.index, []), squash]
    longest = max(chains.values(), key=len, default=[])
    if len(longest) < _ENOUGH or _is_differentiated(graph, longest[0]):
        return []
    first, last = longest[0], longest[-1]
    names = " and ".join(sorted({op.name for op in longest}))
    return [
        LT319.finding(
            f"{len(longest)} hidden layers in a row end in {names}, up to {place(last)}, with no normalization between",
            where=first.module,
            source_line=first.source_line,
            evidence={"layers": len(longest), "threshold": _ENOUGH, "first": place(first), "last": place(last)},
        )
    ]


def _squash_before(graph: Graph, layer: Op) -> Op | None:
    source = main_input(graph, layer)
    way = [] if source is None else way_back(graph, source, _PASSES)
    return way[-1] if way and way[-1].name in _SQUASHES and _has_one_reader(graph, way[-1]) else None


def _layer_before(graph: Graph, squash: Op) -> Op | None:
    way = way_back(graph, squash.inputs[0], _PASSES)
    layers = graph.answer(weight_layers)
    return way[-1] if way and way[-1].name in WEIGHT_OPS and way[-1] in layers else None


def _is_differentiated(graph: Graph, squash: Op) -> bool:
    """The net's own input asks for a gradient, so its derivatives are part of what is learned."""
    layer = _layer_before(graph, squash)
    source = None if layer is None else main_input(graph, layer)
    if source is None or not graph.values[source].requires_grad:
        return False
    return not any(graph.ops[index].parameters for index in graph.upstream(graph.values[source]))


def _has_one_reader(graph: Graph, op: Op) -> bool:
    return len([child for child in graph.children(op) if graph.reaches_loss(child)]) == 1
