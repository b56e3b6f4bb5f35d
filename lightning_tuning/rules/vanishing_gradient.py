"""LT602: next to nothing of the gradient arrives at the first layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._ops import NORMALIZATIONS, weight_layers
from lightning_tuning.rules.gradient_spread import gradient_spread, relative_gradients

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT602", "VanishingJudge", "vanishing_cause"]

LT602 = register(
    Rule(
        code="LT602",
        name="vanishing-gradient",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "Each layer multiplies the gradient by its weights and by the slope of its activation; where that is below "
            "1, layer after layer, nothing arrives at the first ones. They stay random, and what they have lost of the "
            "input no later layer gets back."
        ),
        remedy=(
            "ReLU or GELU for sigmoid and tanh, a normalization or residual connections, "
            "`Trainer(callbacks=[WeightInitCallback()])`."
        ),
        source=(
            "Bengio et al. 1994, Learning long-term dependencies with gradient descent is difficult; Glorot & Bengio "
            "2010; Zhang et al. 2021, AUTOTRAINER (first over last layer's gradient below 1e-3)"
        ),
    )
)

_SQUASHES = frozenset({"sigmoid", "tanh", "softsign", "hardtanh", "hardsigmoid"})
_DEEP = 8
"""Weight layers; PyTorch's default weights and ReLU let 1.2e-2 of the signal through at that depth, .37 at 4."""

_REMEDIES = {
    "saturation": (
        "`nn.ReLU()` or `nn.GELU()` for sigmoid and tanh in the hidden layers; where they must stay, a normalization "
        "before each, or a lower learning rate, which keeps them from saturating."
    ),
    "recurrence": "`nn.LSTM` or `nn.GRU` for `nn.RNN`, whose gradient fades with every step of the sequence.",
    "depth": "residual connections, or a normalization in each block: the net is deep and has neither.",
    "initialization": (
        "`Trainer(callbacks=[WeightInitCallback()])`, which fits the weights to the activations; a normalization; or a "
        "lower learning rate, if the units died on the way."
    ),
}


def vanishing_cause(graph: Graph) -> str:
    """What lets the gradient of the step in ``graph`` fade, if it fades.

    Returns:
        ``"recurrence"`` with plain recurrent layers, ``"saturation"`` where a sigmoid or tanh (that is no gate) stands
        behind at least every other layer, ``"depth"`` from 8 weight layers without normalization or sum of two values,
        and ``"initialization"`` otherwise.
    """
    if graph.find("rnn_tanh", "rnn_relu", "rnn_tanh_cell", "rnn_relu_cell", feeding=True):
        return "recurrence"
    layers = [op for op in graph.answer(weight_layers) if graph.reaches_loss(op)]
    squashes = [op for op in graph.find(*_SQUASHES, feeding=True) if not _is_gate(graph, op)]
    if len(squashes) >= max(2, len(layers) // 2):
        return "saturation"
    is_helped = graph.find(*NORMALIZATIONS, feeding=True) or any(_joins(graph, op) for op in graph.find("add"))
    return "depth" if len(layers) >= _DEEP and not is_helped else "initialization"


def _is_gate(graph: Graph, op: Op) -> bool:
    return any(child.name == "mul" for child in graph.children(op))


def _joins(graph: Graph, op: Op) -> bool:
    return len([value for value in op.inputs if graph.values[value].kind == "intermediate"]) > 1


class VanishingJudge:
    """Judges the gradient norms of now and then: three looks in a row make a finding.

    A look *fires* if the first compared weight's gradient is below ``norm`` and below ``ratio`` times the last one's;
    or if the relative gradients spread as LT202 has it, at each of the three.

    Args:
        weights: norm of each compared weight by name, in the order of the forward pass; see
            :func:`~lightning_tuning.rules.gradient_spread.comparable_weights`.
        adaptive: see :func:`~lightning_tuning.rules.gradient_spread.is_adaptive`.
        optimizer: its name.
        cause: see :func:`vanishing_cause`.
        ratio: first over last gradient.
        norm: of the first gradient; a small ratio alone is no harm where the last layer's gradient is large.

    Example:
        >>> judge = VanishingJudge({"0.weight": 2.0, "9.weight": 2.0}, optimizer="SGD", cause="saturation")
        >>> found = [judge.judge({"0.weight": 2e-9, "9.weight": 0.5}, step=step) for step in (50, 100, 150)]
        >>> found[0], found[1], found[2].where, found[2].count
        (None, None, '0.weight', 3)
    """

    PERSISTENCE = 3

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        adaptive: bool = False,
        optimizer: str = "SGD",
        cause: str = "initialization",
        ratio: float = 1e-3,
        norm: float = 1e-4,
    ) -> None:
        self.weights = weights
        self.adaptive, self.optimizer, self.cause = adaptive, optimizer, cause
        self.ratio, self.norm = ratio, norm
        self._fired: list[int] = []
        self._looks: list[dict[str, float]] = []

    def judge(self, gradients: Mapping[str, float], *, step: int) -> Finding | None:
        """Take one look.

        Args:
            gradients: L2 norm of each parameter's gradient; weights without one are not compared.
            step: at which it was taken.
        """
        present = [name for name in self.weights if name in gradients]
        if len(present) < 2 or not all(math.isfinite(gradients[name]) for name in present):
            return None
        first, last = gradients[present[0]], gradients[present[-1]]
        look = relative_gradients(gradients, {name: self.weights[name] for name in present})
        self._looks = [*self._looks[1 - self.PERSISTENCE :], look]
        vanishes = first < self.norm and first < self.ratio * last
        self._fired = [*self._fired, step][-self.PERSISTENCE :] if vanishes else []
        if len(self._fired) == self.PERSISTENCE:
            return self._finding(
                f"its gradient is {first:.2g} < {self.norm:g}, {first / last:.2g} < {self.ratio:g} of that of "
                f"{present[-1]} ({last:.2g})",
                where=present[0],
                evidence={"first": first, "last": last, "last_at": present[-1], "ratio": first / last},
            )
        if vanishes or len(self._looks) < self.PERSISTENCE:
            return None
        found = gradient_spread(self._looks, adaptive=self.adaptive, optimizer=self.optimizer)
        return None if found is None else self._finding(found.message, where=found.where, evidence=dict(found.evidence))

    def _finding(self, message: str, *, where: str, evidence: dict[str, Any]) -> Finding:
        finding = LT602.finding(
            message, where=where, evidence={**evidence, "cause": self.cause}, remedy=_REMEDIES[self.cause]
        )
        return dataclasses.replace(finding, count=self.PERSISTENCE)

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {"fired": list(self._fired), "looks": [dict(look) for look in self._looks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._fired, self._looks = list(state["fired"]), [dict(look) for look in state["looks"]]
