"""The first loss of a run against the one that a fresh net should have (LT206), and the output's bias (LT207)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from lightning_tuning.findings import Finding
from lightning_tuning.rules._output_layer import OutputLayer, only_output_layer, targets_of
from lightning_tuning.rules._weight_facts import WeightFacts
from lightning_tuning.rules.initial_loss_off import ExpectedLoss, expected_loss
from lightning_tuning.rules.output_bias import Targets, output_bias, targets_in
from lightning_tuning.trace import Graph

__all__ = ["FirstLoss"]


class FirstLoss:
    """The output layer of the first step and its targets.

    Attributes:
        layer: see :class:`OutputLayer`.
        targets: of the batch; ``None`` where they are computed in the step.
    """

    def __init__(self, layer: OutputLayer, targets: Targets | None) -> None:
        self.layer = layer
        self.targets = targets

    @classmethod
    def of(cls, graph: Graph, batch: Mapping[str, Tensor]) -> FirstLoss | None:
        """That of ``graph``, if its loss is one that can be foretold. A device sync, for the targets."""
        layer = graph.answer(only_output_layer)
        if layer is None:
            return None
        values = targets_of(graph, layer.term, batch)
        classes = layer.classes if layer.term.kind in ("cross_entropy", "nll") else None
        if classes is not None and (values is None or values.is_floating_point()):
            return cls(layer, None)
        targets = (
            targets_in(values, classes=classes, ignore_index=layer.term.ignore_index) if values is not None else None
        )
        return cls(layer, targets)

    @property
    def expected(self) -> ExpectedLoss | None:
        """What the loss should be."""
        kind, targets = self.layer.term.kind, self.targets
        if targets is None:
            return expected_loss(kind, classes=self.layer.classes)
        return expected_loss(
            kind,
            classes=self.layer.classes,
            mean=targets.mean,
            variance=targets.variance,
            entropy=targets.entropy,
        )

    def bias(self, facts: Mapping[str, WeightFacts]) -> Finding | None:
        """LT207 of the output layer's bias, if it has one of its own."""
        op = self.layer.op
        weight = next((facts[name] for name in op.parameters if name in facts and len(facts[name].shape) >= 2), None)
        name = next((name for name in op.parameters if name in facts and len(facts[name].shape) == 1), None)
        if weight is None or name is None or self.targets is None or not facts[name].is_trainable:
            return None
        fan_in = math.prod(weight.shape[1:])
        return output_bias(self.layer.term.kind, self.targets, facts[name], fan_in, name=name, where=op.module)
