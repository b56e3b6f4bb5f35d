"""Have these weights been trained before? What loading leaves behind, where the run itself does not say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_tuning.rules._ops import NORMALIZATIONS, RECURRENT_OPS, weight_layers
from lightning_tuning.rules._weight_facts import WeightFacts

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["seem_trained"]

_SAMPLING = 2.0
"""By which the rms of n numbers from one distribution differs, times the root of n: three standard errors of a normal
one, at least as many of a uniform one."""


def seem_trained(graph: Graph, facts: Mapping[str, WeightFacts], *, has_statistics: bool = False) -> bool:
    """Whether the weights that ``graph`` uses were loaded, or trained by somebody else, rather than just initialised.

    Nobody writes that down; but hardly anyone initialises what training always moves: the running statistics of batch
    norms, the scales of normalizations (all 1), and biases, which are drawn by torch within ``1 / sqrt(fan_in)``, or
    set to a constant, or drawn in one loop with the weights. In doubt (a scale drawn from N(1, .02), as DCGANs do) the
    answer is yes, and rules about initialisation stay silent.

    Args:
        graph: of the first step.
        facts: of the parameters, by the names that they have in the graph.
        has_statistics: a batch norm has counted batches before the run began.
    """
    return has_statistics or _scales_moved(graph, facts) or _biases_moved(graph, facts)


def _scales_moved(graph: Graph, facts: Mapping[str, WeightFacts]) -> bool:
    for op in graph.ops:
        names = op.parameters[:1] if op.name in NORMALIZATIONS else op.parameters if op.name == "mul" else ()
        for name in names:
            scale = facts.get(name)
            if scale is not None and len(scale.shape) == 1 and scale.size > 1 and scale.std > 0:
                return True
    return False


def _biases_moved(graph: Graph, facts: Mapping[str, WeightFacts]) -> bool:
    layers = []
    for op in graph.answer(weight_layers):
        known = [facts[name] for name in op.parameters if name in facts]
        weight = next((fact for fact in known if len(fact.shape) >= 2), None)
        bias = next((fact for fact in known if len(fact.shape) == 1), None)
        if op.name not in RECURRENT_OPS and weight is not None and bias is not None:
            layers.append((weight, bias))
    return any(_was_set(*layer) for layer in layers) and not _drawn_alike(layers)


def _was_set(weight: WeightFacts, bias: WeightFacts) -> bool:
    """Whether ``bias`` is neither constant nor as torch makes it."""
    bound = 1 / math.sqrt(max(math.prod(weight.shape[1:]), 1))
    return bias.size > 1 and bias.std > 0 and (bias.version > 1 or bias.rms > 1.01 * bound)


def _drawn_alike(layers: Sequence[tuple[WeightFacts, WeightFacts]]) -> bool:
    """Whether all of it may come from one distribution: ``for p in parameters(): nn.init.normal_(p, std=2)``."""
    every = [fact for layer in layers for fact in layer]
    usual = max(every, key=lambda fact: fact.size).rms
    return all(abs(fact.rms / usual - 1) < _SAMPLING / math.sqrt(fact.size) for fact in every if fact.size > 1)
