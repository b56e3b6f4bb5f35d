"""What twelve looks at the activations come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from lightning_tuning.findings import Finding
from lightning_tuning.measure.unit_counts import NUMBERS
from lightning_tuning.rules._activation_layers import ActivationLayer
from lightning_tuning.rules.attention_collapse import attention_collapse
from lightning_tuning.rules.dead_units import LT608, dead_units
from lightning_tuning.rules.saturated_units import saturated_units

__all__ = ["Verdict"]

_EARLY = 500
"""Optimizer steps, a short warm-up, before which attention that sees all keys alike has not begun to choose."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """When a verdict was due, and on what.

    Its methods take what :meth:`UnitCounts.compute` gave for all layers, one row behind the other, landed.

    Attributes:
        layers: that were looked at.
        ranks: that added up what they saw.
        since: optimizer step of the verdict before.
        step: optimizer steps made.
        epoch: ``trainer.current_epoch``.
        log_step: the loggers' step, where this one is due.
    """

    layers: Sequence[ActivationLayer]
    ranks: int
    since: int
    step: int
    epoch: int
    log_step: int | None

    def findings(self, counted: Sequence[float]) -> Iterator[Finding]:
        """What is wrong; each look counts as a report, for what it saw persisted from one to the next.

        Behind a layer that is dead as a whole every unit is constant, and half of them silent: that is no news.
        """
        is_cut = False
        for layer, dead, looks, sums in self._rows(counted):
            finding = None if is_cut else self._judge(layer, dead, looks, sums)
            if finding is not None:
                is_cut = finding.code == LT608.code and dead >= layer.units
                yield dataclasses.replace(finding, count=int(looks), step=self.since)

    def numbers(self, counted: Sequence[float]) -> dict[str, float]:
        """What is logged: of units the worst layer's share, of attentions the mean."""
        shares, flat, entropies = [], [], []
        for layer, dead, looks, sums in self._rows(counted):
            if layer.kind == "rectifier" and looks > 0:
                shares.append(dead / layer.units)
            elif layer.kind == "squash" and sums[1] > 0:
                flat.append(sums[0] / sums[1])
            elif layer.kind == "attention" and sums[3] > 0:
                entropies.append(sums[2] / sums[3])
        logged = {}
        if shares:
            logged["tuning/dead_units"] = max(shares)
        if flat:
            logged["tuning/saturated_units"] = max(flat)
        if entropies:
            logged["tuning/attention_entropy"] = sum(entropies) / len(entropies)
        return logged

    def _rows(self, counted: Sequence[float]) -> Iterator[tuple[ActivationLayer, float, float, Sequence[float]]]:
        """Each layer, its dead units, the batches in which it was looked at, and its sums."""
        for index, layer in enumerate(self.layers):
            dead, looks, *sums = counted[(2 + NUMBERS) * index : (2 + NUMBERS) * (index + 1)]
            yield layer, dead, looks / self.ranks, sums

    def _judge(self, layer: ActivationLayer, dead: float, looks: float, sums: Sequence[float]) -> Finding | None:
        if layer.kind == "rectifier":
            return dead_units(layer, dead=dead, looks=looks, shown=sums[0])
        if layer.kind == "squash":
            return saturated_units(layer, share=sums[0] / max(sums[1], 1.0), looks=looks)
        early = self.since < _EARLY
        return attention_collapse(layer, one_hot=sums[0], uniform=sums[1], rows=sums[3], looks=looks, early=early)
