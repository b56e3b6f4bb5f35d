"""What twelve looks at the activations come to."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Container, Iterator, Sequence

from lightning_tuning.findings import Finding
from lightning_tuning.measure import Meter
from lightning_tuning.measure.details import Kind
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

    def hand_on(self, meter: Meter, counted: Sequence[float]) -> None:
        """Log of units the worst layer's share, of attentions the mean; and let those who listen have each layer's."""
        by_kind: dict[Kind, dict[str, float]] = {}
        for layer, dead, looks, sums in self._rows(counted):
            kind: Kind
            if layer.kind == "rectifier" and looks > 0:
                kind, share = "dead_units", dead / layer.units
            elif layer.kind == "squash" and sums[1] > 0:
                kind, share = "saturated_units", sums[0] / sums[1]
            elif layer.kind == "attention" and sums[3] > 0:
                kind, share = "attention_entropy", sums[2] / sums[3]
            else:
                continue
            shares = by_kind.setdefault(kind, {})
            shares[_unused(layer.where, shares)] = share
        for kind, shares in by_kind.items():
            meter.details.publish(kind, self.step, self.epoch, shares)
        if by_kind:
            over = {"attention_entropy": statistics.fmean}
            meter.log(
                {f"tuning/{kind}": over.get(kind, max)(shares.values()) for kind, shares in by_kind.items()},
                self.log_step,
            )

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


def _unused(name: str, taken: Container[str]) -> str:
    """``name``, numbered from the second one on: a module may pass several activations."""
    names = (f"{name} #{number}" if number > 1 else name for number in itertools.count(1))
    return next(one for one in names if one not in taken)
