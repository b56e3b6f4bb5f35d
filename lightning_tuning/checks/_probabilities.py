"""Sees whether losses of probabilities are given some (LT315)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from lightning_tuning.findings import Finding
from lightning_tuning.rules.missing_log_softmax import no_log_probabilities, no_probabilities
from lightning_tuning.trace import Graph, Op

__all__ = ["Probabilities"]

_NLL = frozenset({"nll_loss", "nll_loss_nd", "nll_loss2d"})


class Probabilities:
    """A probe of the losses that take probabilities; one that ends the run is judged before it runs.

    Attributes:
        foreseen: findings of operations that were about to run; said even if the step has no end.
    """

    names: Collection[str] = frozenset({*_NLL, "binary_cross_entropy"})

    def __init__(self) -> None:
        self.foreseen: list[Finding] = []
        self._seen: dict[int, Tensor] = {}

    def foresee(self, op: Op, inputs: Sequence[Tensor]) -> None:
        """Binary cross entropy raises on what is no probability; so its input is read here, in this one step."""
        if op.name == "binary_cross_entropy" and inputs and inputs[0].numel():
            smallest, largest = torch.stack(inputs[0].detach().aminmax()).tolist()
            finding = no_probabilities(op, smallest, largest)
            if finding is not None:
                self.foreseen.append(finding)

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Log-probabilities sum to 1 after exp; remembered on the device."""
        if op.name not in _NLL or not inputs or not inputs[0].is_floating_point():
            return
        given = inputs[0].detach().float()
        axis = min(1, given.dim() - 1)
        if given.numel() and given.shape[axis] > 1:
            off = given.logsumexp(axis).abs().flatten().median()
            self._seen[op.index] = torch.stack([off, given.max()])

    def findings(self, graph: Graph) -> Iterator[Finding]:
        """What the losses of ``graph`` were given and should not; a device sync per ``nll_loss``."""
        yield from self.foreseen
        for index, seen in self._seen.items():
            if graph.reaches_loss(index):
                off, largest = seen.tolist()
                finding = no_log_probabilities(graph.ops[index], off, largest)
                if finding is not None:
                    yield finding
