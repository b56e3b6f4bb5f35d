"""LT318: two weight layers in a row, with nothing between that is not linear."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._ops import DROPOUTS, NORMALIZATIONS, RECURRENT_OPS, main_input, place, weight_layers
from lightning_tuning.rules._views import VIEW_OPS, way_back

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT318", "stacked_linears"]

LT318 = register(
    Rule(
        code="LT318",
        name="stacked-linear",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "A linear map of a linear map is a linear map: the second layer costs parameters and depth, and the two "
            "together can represent nothing that one cannot."
        ),
        remedy="put a nonlinearity between them: `nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, c))`.",
        source="Schoop et al. 2021, UMLAUT; Nikanjam et al. 2021, NeuraLint (missing activation)",
    )
)

_DENSE = frozenset({"linear", "addmm", "matmul", "mm"})
_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
_PASSES = VIEW_OPS | DROPOUTS | {"add", "mul", "div"}
_LINEAR = _PASSES | _DENSE | _CONVOLUTIONS | {"sub", "neg", "mean", "sum", "cat", "avg_pool1d", "avg_pool2d", "getitem"}


_CUTS_UP = frozenset({"chunk", "split", "tensor_split", "unbind"})
_PIECES = frozenset({"getitem", "select", "narrow"})


def stacked_linears(graph: Graph) -> list[Finding]:
    """LT318 for each weight layer that is fed by another of its kind through views, dropout and biases alone.

    Left alone are factorizations (the middle narrower than both ends, pointwise, grouped and crossed kernels), layers
    whose output somebody else reads too (queries, keys and values; skips), several projections in one (packed queries,
    keys and values), weights used several times (shared heads), frozen ones, and a last projection behind a net that
    has nonlinearities.
    """
    layers = graph.answer(weight_layers)
    last = max((op.index for op in layers if graph.reaches_loss(op)), default=-1)
    uses = Counter(name for op in layers for name in op.parameters)
    is_layer = {op.index for op in layers}
    found = []
    for op in layers:
        source = main_input(graph, op)
        if source is None or not graph.reaches_loss(op) or op.name not in _DENSE | _CONVOLUTIONS:
            continue
        way = way_back(graph, source, _PASSES)
        if not way or way[-1].index not in is_layer or not _is_same_kind(way[-1], op):
            continue
        first = way[-1]
        if any(uses[name] > 1 for name in (*first.parameters, *op.parameters)) or not _is_trained(graph, first):
            continue
        if not _is_only_reader(graph, [*way[:-1], first]) or _is_factorization(graph, first, op):
            continue
        if (op.index == last and _has_nonlinearity(graph, first)) or _is_packed(graph, op):
            continue
        found.append(_finding(graph, first, op))
    return found


def _is_trained(graph: Graph, op: Op) -> bool:
    return any(graph.values[index].requires_grad for index in op.inputs if graph.values[index].kind == "parameter")


def _is_same_kind(first: Op, second: Op) -> bool:
    if first.name in _DENSE:
        return second.name in _DENSE
    return first.name == second.name


def _is_only_reader(graph: Graph, way: list[Op]) -> bool:
    """Nobody else reads what lies between, on a way to the loss."""
    return all(
        len([child for child in graph.children(op) if graph.reaches_loss(child)]) == 1 and not op.inplace for op in way
    )


def _is_packed(graph: Graph, op: Op) -> bool:
    """Its output is cut into pieces that go ways of their own."""
    while len(children := [child for child in graph.children(op) if graph.reaches_loss(child)]) == 1:
        (op,) = children
        if op.name in _CUTS_UP:
            return True
        if op.name not in VIEW_OPS:
            return False
    return len(children) > 1 and all(child.name in _PIECES for child in children)


def _is_factorization(graph: Graph, first: Op, second: Op) -> bool:
    if first.name in _CONVOLUTIONS:
        if any(op.arguments.get("groups", 1) != 1 for op in (first, second)):
            return True
        kernels = [graph.values[op.inputs[1]].shape[2:] for op in (first, second)]
        is_pointwise = any(math.prod(kernel) == 1 for kernel in kernels)
        return is_pointwise or any(1 in pair for pair in zip(*kernels, strict=True))
    source, middle = _width(graph, first, into=True), _width(graph, first)
    return source is None or middle is None or middle < min(source, _width(graph, second) or 0)


def _width(graph: Graph, op: Op, *, into: bool = False) -> int | None:
    value = main_input(graph, op) if into else op.outputs[0]
    return graph.values[value].shape[-1] if value is not None and graph.values[value].shape else None


def _has_nonlinearity(graph: Graph, first: Op) -> bool:
    """Whether the net before ``first`` is more than a linear map of a batch."""
    return any(
        graph.ops[index].name not in _LINEAR or graph.ops[index].name in RECURRENT_OPS | NORMALIZATIONS
        for index in graph.upstream(first)
    )


def _finding(graph: Graph, first: Op, second: Op) -> Finding:
    return LT318.finding(
        f"{second.name} is fed by {first.name} {place(first)} with no nonlinearity between",
        where=second.module,
        source_line=second.source_line,
        evidence={
            "first": place(first),
            "second": place(second),
            "first_line": first.source_line or "",
            "width_between": graph.values[first.outputs[0]].shape[1 if first.name in _CONVOLUTIONS else -1],
        },
    )
