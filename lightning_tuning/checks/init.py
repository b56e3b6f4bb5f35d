"""Looks at the weights before they are first updated, and at what they make of the first batch (LT201-LT209)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.checks._init_weights import History, named_weights
from lightning_tuning.checks._signal_probe import SignalProbe
from lightning_tuning.checks._spread_watch import SpreadWatch
from lightning_tuning.findings import Finding
from lightning_tuning.findings.gate import PERSISTENCE
from lightning_tuning.rules._first_loss import FirstLoss
from lightning_tuning.rules._trained import seem_trained
from lightning_tuning.rules._weight_facts import MeasuredWeights, WeightFacts, weight_facts
from lightning_tuning.rules.gradient_spread import comparable_weights
from lightning_tuning.rules.init_activation_mismatch import init_activation_mismatches
from lightning_tuning.rules.initial_loss_off import initial_loss_off
from lightning_tuning.rules.lstm_forget_bias import forget_biases, lstm_forget_bias
from lightning_tuning.rules.signal_collapse import signal_collapse
from lightning_tuning.rules.symmetric_weights import duplicate_units, symmetric_weights
from lightning_tuning.rules.uninitialised_parameter import contents, uninitialised_parameter
from lightning_tuning.rules.weight_shape import transposed_linears
from lightning_tuning.runtime import Check, Desk, FirstStep, Sparing
from lightning_tuning.trace import Probe

__all__ = ["InitCheck"]


class InitCheck(Check):
    """Looks at the initialisation: the weights, and what they make of the first batch (LT201-LT209).

    Why: it decides whether a net begins to learn, and how fast; what is wrong there looks like a bad learning rate for
    a day. Judged by effect, on the first real step: whether what tells samples apart reaches the last layer (LT201),
    whether the weights' gradients are of one order at the third, sixth and eleventh step (LT202), whether units are
    copies of each other (LT203), whether memory was left unfilled (LT204), whether each weight suits the activation
    behind it (LT205), whether the first loss is that of a net that knows nothing (LT206), whether the output's bias
    knows the prior (LT207) and the LSTMs' forget gates are open (LT208); and, before the first forward pass, whether a
    linear layer's weight lies the wrong way round (LT209).

    Only fresh weights are judged: a run that resumes or goes on, and weights that show signs of training (statistics
    of batch norms, scales and biases that have moved), are left alone. With several optimizers or manual optimization
    nothing is said of the loss, the output's bias and the spread of the gradients.

    It reads a few numbers of each parameter and layer once, at the first batch; the gradient norms of three steps land
    later, without a wait. Changes nothing.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[InitCheck()], logger=False, accelerator="cpu")

    Source: He et al. 2015; Glorot & Bengio 2010; Jozefowicz et al. 2015; Karpathy 2019, A Recipe for Training Neural
    Networks.
    """

    def __init__(self) -> None:
        self._history = History()
        self._probe = SignalProbe()
        self._spread: SpreadWatch | None = None
        self._first_loss: FirstLoss | None = None
        self._measured: MeasuredWeights | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the first step, and for a few looks before and after it."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        desk = Desk.of(trainer)
        self._first_loss = self._measured = None
        self._spread = SpreadWatch()
        desk.watch_loss()  # the outcome of the run decides what its symptoms are worth
        desk.watch("train_start", self._begin)
        desk.watch("train_batch_start", self._measure)
        desk.watch("train_batch_end", self._judge_first_loss)
        desk.watch("before_optimizer_step", self._spread.measure)
        desk.meter.subscribe(functools.partial(self._spread.judge, desk.journal))

    def probes(self) -> Sequence[Probe]:
        """One that measures what reaches the weight layers."""
        self._probe = SignalProbe()
        return (self._probe,)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """LT209, while nothing has run into it yet."""
        with Sparing(Desk.of(trainer).journal, self):
            for finding in transposed_linears(pl_module):
                self.report(trainer, finding, once=True)

    def look(self, step: FirstStep) -> Iterable[Finding]:
        """Everything that the first step tells, but the loss itself, which is not known yet."""
        probe, self._probe = self._probe, SignalProbe()
        measured, self._measured = self._measured, None
        if not self._history.is_fresh or measured is None:
            return
        facts = measured.read()
        parameters, tied = named_weights(step.pl_module)
        facts |= weight_facts({name: parameters[name] for name in parameters.keys() - facts.keys()})  # lazy ones
        for name, values in contents(parameters, facts).items():
            finding = uninitialised_parameter(name, values, is_trained=self._history.has_statistics)
            if finding is not None:
                yield finding
        if seem_trained(step.graph, facts, has_statistics=self._history.has_statistics):
            return
        yield from map(_persistent, signal_collapse(step.graph, probe.signals()))
        own = {name: parameter for name, parameter in parameters.items() if name not in tied}
        yield from self._weights(step, own, {name: fact for name, fact in facts.items() if name not in tied})
        if step.pl_module.automatic_optimization and len(step.trainer.optimizers) == 1:
            yield from self._outcome(step, facts)

    def _weights(self, step: FirstStep, own: dict[str, Tensor], facts: dict[str, WeightFacts]) -> Iterator[Finding]:
        yield from map(symmetric_weights, duplicate_units(step.graph, own))
        yield from init_activation_mismatches(step.graph, facts)
        for op, name, bias in forget_biases(step.graph, own):
            if (finding := lstm_forget_bias(op, name, bias)) is not None:
                yield finding

    def _outcome(self, step: FirstStep, facts: dict[str, WeightFacts]) -> Iterator[Finding]:
        if self._spread is not None:
            self._spread.compare(comparable_weights(step.graph, facts))
        self._first_loss = FirstLoss.of(step.graph, step.batch)
        if self._first_loss is not None and (finding := self._first_loss.bias(facts)) is not None:
            yield finding

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        self._history.begin(trainer, pl_module)
        return True

    def _measure(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> bool:
        """Take the numbers of the weights before the first step: under manual optimization it ends with an update."""
        if self._history.is_fresh:
            parameters, _ = named_weights(pl_module)
            self._measured = MeasuredWeights(parameters)
            self._probe.expect(batch)
        return True

    def _judge_first_loss(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> bool:
        """LT206; the first batch whose step was seen. A device sync."""
        first, self._first_loss = self._first_loss, None
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        expected = None if first is None else first.expected
        if first is not None and expected is not None and isinstance(loss, Tensor):
            finding = initial_loss_off(float(loss.detach()) / first.layer.factor, expected, where=first.layer.op.module)
            if finding is not None:
                self.report(trainer, _persistent(finding), once=True)
        return loss is not None or batch_idx > 2


def _persistent(finding: Finding) -> Finding:
    """How a run began is no reading that may fade: it counts as often as the gate asks for."""
    return dataclasses.replace(finding, count=PERSISTENCE)
