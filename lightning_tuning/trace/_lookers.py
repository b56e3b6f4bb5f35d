"""Shows the operations of a step to the probes that asked for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lightning_tuning.trace.graph import Op
from lightning_tuning.trace.probe import EarlyProbe, Probe

__all__ = ["Lookers"]


class Lookers:
    """Probes by the names of the operations that they want to see."""

    def __init__(self, probes: Iterable[Probe]) -> None:
        self._late: dict[str, list[Probe]] = {}
        self._early: dict[str, list[EarlyProbe]] = {}
        for probe in probes:
            for name in probe.names:
                self._late.setdefault(name, []).append(probe)
                if isinstance(probe, EarlyProbe):
                    self._early.setdefault(name, []).append(probe)

    def foresee(self, name: str) -> bool:
        """Whether somebody wants to see operations of that name before they run."""
        return name in self._early

    def before(self, op: Op, inputs: Sequence[Tensor]) -> None:
        """``op`` is about to run."""
        with torch.no_grad():
            for probe in self._early.get(op.name, ()):
                probe.foresee(op, inputs)

    def after(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """``op`` has run."""
        if probes := self._late.get(op.name):
            with torch.no_grad():
                for probe in probes:
                    probe.look(op, inputs, outputs)
