"""LT205: weights of a size that the activation behind them can't live with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.functional._recipes import Recipe, recipe_for
from lightning_tuning.rules._ops import (
    MASKS,
    NORMALIZATIONS,
    RECURRENT_OPS,
    SHAPE_OPS,
    output_layers,
    place,
    weight_layers,
)
from lightning_tuning.rules._weight_facts import WeightFacts

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT205", "init_activation_mismatches"]

LT205 = register(
    Rule(
        code="LT205",
        name="init-activation-mismatch",
        severity=Severity.INFO,
        kind="fact",
        why=(
            "A layer multiplies the size of its signal by std * sqrt(fan_in): 1.41 is right before ReLU, 1 before SELU "
            "and sigmoid, 5/3 before tanh. Too small, and the signal dies layer by layer; too large, and it explodes "
            "or saturates: N(0, .5) on a 3 x 3 convolution of 64 channels is 8.5 times He's."
        ),
        remedy="`Trainer(callbacks=[WeightInitCallback()])`, which asks the activation behind each weight.",
        source="LeCun et al. 1998, Efficient BackProp; Glorot & Bengio 2010; He et al. 2015; Klambauer et al. 2017",
    )
)

_LOW, _HIGH = 0.02, 3.0
_NARROWS = 8
"""A layer with so many times fewer outputs than inputs is a head (an actor's, before its tanh), often small on
purpose."""
_PASSED = SHAPE_OPS | MASKS | {"add", "sub", "neg"}
_FORMS = {"he": "He", "xavier": "Xavier", "lecun": "LeCun"}


def init_activation_mismatches(graph: Graph, facts: Mapping[str, WeightFacts]) -> list[Finding]:
    """LT205 for each fresh weight whose std * sqrt(fan_in) is outside .02-3 and which an activation follows.

    Left alone: what a normalization follows (it sets the size anew), outputs, weights of zeros or of one constant, and
    layers whose fan-in nobody knows. Large is measured by the root mean square: U(-1, .1) has a mean of -.45.

    Args:
        graph: of the first step.
        facts: of the parameters, by the names that they have in the graph; tied and trained ones left out.
    """
    if graph.blind:
        return []
    found: dict[str, Finding] = {}
    for op in graph.answer(weight_layers):
        fan_in = _fan_in(graph, op)
        name = next((p for p in op.parameters if p in facts and len(facts[p].shape) >= 2), None)
        if fan_in is None or name is None or name in found or not graph.reaches_loss(op):
            continue
        fact, recipe = facts[name], _successor(graph, op)
        if recipe is None or not fact.is_trainable or fact.std == 0 or not math.isfinite(fact.rms):
            continue
        is_head = fact.size / fan_in * _NARROWS <= fan_in
        low, high = fact.std * math.sqrt(fan_in), fact.rms * math.sqrt(fan_in)
        if high > _HIGH or (low < _LOW and not is_head):
            found[name] = _finding(op, name, fact, fan_in, recipe)
    return list(found.values())


def _finding(op: Op, name: str, fact: WeightFacts, fan_in: float, recipe: Recipe) -> Finding:
    factor = math.sqrt(fan_in) * (fact.std if fact.std * math.sqrt(fan_in) < _LOW else fact.rms)
    wanted = recipe.gain
    form = _FORMS.get(recipe.scheme, recipe.scheme)
    mean = f" (mean {fact.mean:.2g})" if abs(fact.mean) > fact.std / 2 else ""
    return LT205.finding(
        f"std {fact.std:.3g}{mean} at fan-in {fan_in:g} multiplies the signal of {place(op)} by {factor:.3g}, outside "
        f"{_LOW:g}-{_HIGH:g}; {form} for {recipe.activation} is {wanted:.3g}",
        where=name,
        evidence={
            "std": fact.std,
            "mean": fact.mean,
            "fan_in": fan_in,
            "factor": factor,
            "wanted": wanted,
            "activation": recipe.activation,
        },
        source_line=op.source_line,
    )


def _successor(graph: Graph, op: Op) -> Recipe | None:
    """What the activation behind ``op`` wants; ``None`` where there is none, or something else comes first."""
    seen, waiting = set(op.outputs), list(op.outputs)
    found: Recipe | None = None
    while waiting:
        for reader in graph.consumers(waiting.pop(0)):
            if reader.name in NORMALIZATIONS:
                return None
            recipe = recipe_for(reader.name, reader.arguments)
            if recipe is not None:
                found = found or recipe
            elif reader.name in _PASSED:
                fresh = [value for value in reader.outputs if value not in seen]
                seen.update(fresh)
                waiting += fresh
    return found if op.index not in graph.answer(output_layers) else None


def _fan_in(graph: Graph, op: Op) -> float | None:
    """How many inputs feed one output of ``op``; ``None`` where that can't be told (nor of recurrent layers' gates)."""
    if op.name in RECURRENT_OPS or op.name.startswith("conv_transpose"):
        return None
    values = [graph.values[index] for index in op.inputs]
    position = next((i for i, v in enumerate(values) if v.kind == "parameter" and len(v.shape) >= 2), None)
    if position is None:
        return None
    shape = values[position].shape
    if op.name == "linear" or op.name.startswith("conv"):
        return float(math.prod(shape[1:]))
    if op.name in ("matmul", "mm", "addmm") and len(shape) == 2:
        return float(shape[1] if position == 0 else shape[0])
    return None
