"""Measures how far the scores of attention spread in the first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from lightning_tuning.findings import Finding
from lightning_tuning.findings.gate import PERSISTENCE
from lightning_tuning.measure import plain_name
from lightning_tuning.measure.activations import attention_scores, score_spread
from lightning_tuning.rules._activation_layers import ATTENTION, ActivationLayer
from lightning_tuning.rules._trained import seem_trained
from lightning_tuning.rules._weight_facts import weight_facts
from lightning_tuning.rules.attention_collapse import large_scores
from lightning_tuning.trace import Graph, Op

__all__ = ["ScoreProbe"]


class ScoreProbe:
    """Keeps the spread of the scores of each softmax, by index of the operation."""

    names: Collection[str] = ATTENTION

    def __init__(self) -> None:
        self._spreads: dict[int, Tensor] = {}

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Measure one, on its device."""
        if op.name == "softmax":
            dim = op.arguments.get("dim")
            if inputs[0].dim() >= 3 and isinstance(dim, int):
                self._spreads[op.index] = score_spread(inputs[0], dim)
            return
        mask = inputs[3] if len(inputs) > 3 else None
        causal, scale = bool(op.arguments.get("is_causal")), op.arguments.get("scale")
        gqa = bool(op.arguments.get("enable_gqa"))
        scores = attention_scores(inputs[0], inputs[1], None, mask, 0.0, causal, scale, gqa)
        self._spreads[op.index] = score_spread(scores)

    def findings(self, graph: Graph, layers: Sequence[ActivationLayer], pl_module: nn.Module) -> list[Finding]:
        """What is wrong with fresh weights: scores that are too large. A device sync.

        It was so at the start, which is no reading that may fade: it counts as often as the gate asks for.
        """
        known = [(layer, op) for layer in layers for op in layer.ops if op in self._spreads]
        values = torch.stack([self._spreads[op] for _, op in known]).tolist() if known else []
        self._spreads.clear()
        large: dict[tuple[str, ...], Finding] = {}
        for (layer, _), value in zip(known, values, strict=True):
            if (finding := large_scores(layer, value)) is not None:
                large.setdefault(layer.key, dataclasses.replace(finding, count=PERSISTENCE))
        if large and seem_trained(graph, weight_facts({plain_name(n): p for n, p in pl_module.named_parameters()})):
            return []
        return list(large.values())
