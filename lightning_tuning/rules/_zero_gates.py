"""Branches that start switched off: behind a gate of zeros, or of next to nothing, no gradient says anything yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning_tuning.rules._ops import NORMALIZATIONS, SHAPE_OPS, WEIGHT_OPS
from lightning_tuning.rules._weight_facts import WeightFacts

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["reached_by_gradient"]

_SMALL = 0.2
"""LayerScale starts at .1, 1e-4 or 1e-6 (Touvron et al. 2021), ReZero, SkipInit and LoRA at 0."""


def reached_by_gradient(graph: Graph, facts: Mapping[str, WeightFacts]) -> set[int]:
    """Indices of the operations from which a path leads to a loss that passes no closed gate.

    A gate is closed if it multiplies by zeros or by a parameter below .2: a zero-initialised layer (LoRA's B, the last
    one of a residual branch, a norm's scale), LayerScale, or the output of a zero layer (adaLN-zero). The gate itself
    is reached, what lies behind it is not.
    """
    zeros = _zero_values(graph, facts)
    closed = {op.index for op in graph.ops if _is_closed(op, facts) or _multiplies_by(op, zeros)}
    reached: set[int] = set()
    for value in graph.losses:
        maker = graph.producer(value)
        if maker is not None:
            reached.add(maker.index)
            reached |= (
                graph.upstream(maker, through=lambda op: op.index not in closed) if maker.index not in closed else set()
            )
    return reached


def _zero_values(graph: Graph, facts: Mapping[str, WeightFacts]) -> set[int]:
    """Indices of the values that are 0, since a zero layer made them."""
    zeros: set[int] = set()
    for op in graph.ops:
        is_zero_layer = op.name in WEIGHT_OPS and _all_zero(op.parameters, facts)
        if is_zero_layer or (op.name in SHAPE_OPS and op.inputs and op.inputs[0] in zeros) or _multiplies_by(op, zeros):
            zeros.update(op.outputs)
    return zeros


def _multiplies_by(op: Op, zeros: set[int]) -> bool:
    return op.name == "mul" and any(value in zeros for value in op.inputs)


def _is_closed(op: Op, facts: Mapping[str, WeightFacts]) -> bool:
    if op.name in NORMALIZATIONS:
        return _all_zero(op.parameters[:1], facts)  # the second is the shift, which is 0 in every net
    if op.name in WEIGHT_OPS:
        weights = [name for name in op.parameters if name in facts and len(facts[name].shape) >= 2]
        return _all_zero(weights, facts)
    if op.name in ("mul", "addcmul"):
        return any(name in facts and facts[name].rms < _SMALL for name in op.parameters)
    return False


def _all_zero(names: tuple[str, ...] | list[str], facts: Mapping[str, WeightFacts]) -> bool:
    return bool(names) and all(name in facts and facts[name].is_zero for name in names)
