"""Measures how far the scores of attention spread in the first step."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from lightning_tuning.measure.activations import attention_scores, score_spread
from lightning_tuning.rules._activation_layers import ATTENTION, ActivationLayer
from lightning_tuning.trace import Op

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

    def spreads(self, layers: Sequence[ActivationLayer]) -> Iterator[tuple[ActivationLayer, float]]:
        """The largest of each attention among ``layers``. A device sync."""
        known = [(layer, op) for layer in layers for op in layer.ops if op in self._spreads]
        largest: dict[tuple[str, ...], tuple[ActivationLayer, float]] = {}
        if known:
            values = torch.stack([self._spreads[op] for _, op in known]).tolist()
            for (layer, _), value in zip(known, values, strict=True):
                if value >= largest.get(layer.key, (layer, 0.0))[1]:
                    largest[layer.key] = layer, value
        self._spreads.clear()
        yield from largest.values()
