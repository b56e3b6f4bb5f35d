"""LT316: an activation between the last weights and a loss that takes logits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._head import PICKS, SIGMOIDS, comes_from_weights, logits_of
from lightning_tuning.rules._loss_terms import LossTerm, loss_terms
from lightning_tuning.rules._ops import MASKS, place
from lightning_tuning.rules._views import VIEW_OPS, way_back

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT316", "activations_on_logits"]

LT316 = register(
    Rule(
        code="LT316",
        name="activation-on-logits",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "Logits must be free to take any value. Behind a ReLU the wrong classes cannot go below 0, and a logit "
            "that is 0 gets no gradient; within the bounds of tanh or sigmoid no class can become probable."
        ),
        remedy="give the loss the output of the last layer itself: end the net with `nn.Linear(hidden, classes)`.",
        source="Braiek & Khomh 2022, TheDeepChecker (missing or redundant output activation)",
    )
)

_ONE_SIDED = {"relu": 0.0, "relu6": 0.0, "hardswish": -0.375, "gelu": -0.17, "silu": -0.28, "mish": -0.31}
_CUTS = frozenset({"relu", "relu6"})
_BOUNDED = {"tanh": (-1, 1), "hardtanh": (-1, 1), "softsign": (-1, 1), "sigmoid": (0, 1), "hardsigmoid": (0, 1)}


def activations_on_logits(graph: Graph) -> list[Finding]:
    """LT316 for each activation between a weight layer and a loss of logits, with nothing but views behind it.

    A scale behind the activation (``30 * tanh(x / 30)``) is a soft cap, and pooling (SqueezeNet, NiN) takes scores as
    evidence: both are left alone. Activations that keep a slope everywhere (leaky ReLU, ELU, softplus) are taste.
    """
    found: dict[int, Finding] = {}
    for term in graph.answer(loss_terms):
        logits = logits_of(graph, term)
        way = [] if logits is None else way_back(graph, logits, VIEW_OPS | PICKS | MASKS)
        if way and _is_activation(way[-1]) and not (way[-1].name in SIGMOIDS and _is_binary(term)):
            layer = comes_from_weights(graph, way[-1].inputs[0])
            if layer is not None:
                found.setdefault(way[-1].index, _finding(way[-1], layer, term))
    return list(found.values())


def _is_activation(op: Op) -> bool:
    return op.name in _ONE_SIDED | _BOUNDED or _is_relu_by_hand(op)


def _is_relu_by_hand(op: Op) -> bool:
    """``x.clamp(min=0)``; bounds on both sides keep logits from running away."""
    bounds = [op.arguments.get(name) for name in ("min", "max")]
    return op.name in ("clamp", "clip", "clamp_min") and bounds in ([0, None], [0, math.inf])


def _is_binary(term: LossTerm) -> bool:
    return term.kind in ("bce", "bce_logits")  # a sigmoid there is one too many: LT314


def _finding(op: Op, layer: Op, term: LossTerm) -> Finding:
    low, high = _BOUNDED.get(op.name, (_ONE_SIDED.get(op.name, 0.0), float("inf")))
    if op.name == "hardtanh":  # which ReLU6 is, too
        low, high = op.arguments.get("min_val", low), op.arguments.get("max_val", high)
    loss = term.op.name if not term.by_hand else f"a {term.kind} by hand"
    cuts = op.name in _CUTS or _is_relu_by_hand(op) or (op.name == "hardtanh" and low >= 0)
    severity = Severity.ERROR if cuts else Severity.WARNING if op.name in _BOUNDED else Severity.INFO
    reach = f"between {low:g} and {high:g}" if op.name in _BOUNDED else f"above {low:g}"
    return LT316.finding(
        f"{op.name} between the last weights {place(layer)} and {loss}: every logit lies {reach}",
        where=op.module,
        source_line=op.source_line,
        evidence={"activation": op.name, "layer": place(layer), "loss": loss, "low": low, "high": high},
        severity=severity,
    )
