"""Looks at what stands between the last weights and the loss (LT314-LT319, LT410, LT412)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.checks._held import lasting
from lightning_tuning.checks._probabilities import Probabilities
from lightning_tuning.findings import Finding
from lightning_tuning.rules.activation_on_logits import activations_on_logits
from lightning_tuning.rules.clipped_loss import clipped_losses
from lightning_tuning.rules.redundant_softmax import redundant_softmaxes
from lightning_tuning.rules.sigmoid_stack import sigmoid_stacks
from lightning_tuning.rules.softmax_axis import misplaced_softmaxes
from lightning_tuning.rules.stacked_linear import stacked_linears
from lightning_tuning.rules.sum_reduction import sum_reduction
from lightning_tuning.runtime import Check, Desk, FirstStep
from lightning_tuning.trace import Probe

__all__ = ["LossHeadCheck"]


class LossHeadCheck(Check):
    """Looks at what stands between the last weights and the loss, and at how the loss is put together.

    Why: these mistakes raise nothing and let the run learn something, only less than it could. A softmax before cross
    entropy (LT314), raw scores in a loss of probabilities (LT315), an activation on the logits (LT316), a softmax over
    the wrong axis (LT317), weight layers in a row with nothing between (LT318), stacks of sigmoids (LT319), a sum over
    the batch (LT410) and a clipped loss (LT412) are read off the first training step as it really ran, so losses
    written by hand, functional calls and custom modules are seen alike.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LossHeadCheck()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self._probabilities = Probabilities()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A symptom (LT318) and advice (LT319) need the outcome of the run."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            Desk.of(trainer).watch_loss()

    def probes(self) -> Sequence[Probe]:
        """Values decide whether something is a (log-)probability."""
        self._probabilities = Probabilities()
        return (self._probabilities,)

    def look(self, step: FirstStep) -> Iterable[Finding]:
        """All of it, from the graph of the step and what the probe saw."""
        graph = step.graph
        probabilities, self._probabilities = self._probabilities, Probabilities()
        yield from probabilities.findings(graph)
        for rule in (redundant_softmaxes, activations_on_logits, misplaced_softmaxes, clipped_losses):
            yield from rule(graph)
        for symptom in stacked_linears(graph):
            yield lasting(symptom)
        yield from sigmoid_stacks(graph)
        if (summed := sum_reduction(graph)) is not None:
            yield summed

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A loss that refused its input ended the run: say what was seen before."""
        probabilities, self._probabilities = self._probabilities, Probabilities()
        if Desk.find(trainer) is not None:
            with contextlib.suppress(RuntimeError):  # of ours, where findings raise: the run ends already
                for finding in probabilities.foreseen:
                    self.report(trainer, finding, once=True)
