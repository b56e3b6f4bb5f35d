"""One fit, on its way into a run folder: who is asked for what, and what is kept of it."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_tuning.measure import Reading
from lightning_tuning.measure.details import Detail
from lightning_tuning.recording._blocks import StepBlocks
from lightning_tuning.recording._cost import CostLooks
from lightning_tuning.recording._facts import schedule_facts
from lightning_tuning.recording._findings_lines import FindingsLines
from lightning_tuning.recording._model_map import model_map
from lightning_tuning.recording._record import Record
from lightning_tuning.recording._samples import Samples
from lightning_tuning.rules._optimizers import named_groups
from lightning_tuning.runtime import Desk, Sparing
from lightning_tuning.runtime.clip_bound import clip_bound
from lightning_tuning.trace import Graph

__all__ = ["Recorder"]

_ASKED = 50
"""Optimizer steps in which others have to have had the gradients measured, to be taken for ones who always do."""


class Recorder:
    """Takes what is measured and found in one fit of one trainer; on other ranks than the first it only takes part.

    Args:
        trainer: of the fit; weakly held.
        every_n_steps: see :class:`TuningReport`.
        folder: see :class:`RunFiles`.
        report: likewise.
        run: likewise.

    Attributes:
        record: what was taken.
    """

    def __init__(self, trainer: Trainer, *, every_n_steps: int, folder: Path, report: Path | None, run: str) -> None:
        self._trainer: Trainer = weakref.proxy(trainer)
        self._desk, self._every = Desk.of(trainer), every_n_steps
        self._sparing = Sparing(self._desk.journal, "TuningReport")
        self._findings = FindingsLines(self._finish, self._sparing)
        self.record = Record(self._trainer, self._desk, self._findings, folder=folder, report=report, run=run)
        self._blocks = StepBlocks(self.record.put)
        self._samples = Samples(self.record.put, every_n_steps)
        self._cost = CostLooks(self._trainer)
        self._rates: dict[str, float] = {}
        self._rates_due = self._steps = self._rates_epoch = 0
        self._error: BaseException | None = None

    def attach(self) -> None:
        """Ask for everything that is to be kept; alike on every rank."""
        desk, keeps = self._desk, self._trainer.is_global_zero
        desk.journal.reporters.append(self._findings)  # closed before those who tell of the notes, with one if it fails
        desk.watch_loss()
        desk.meter.subscribe(self._take if keeps else _nothing)
        desk.meter.details.subscribe(self._take_detail if keeps else _nothing)
        desk.meter.outlet.listeners.append(self._take_logged if keeps else _nothing)
        desk.request_trace(self._take_graph)
        desk.watch("before_optimizer_step", self._have_measured)
        desk.watch("train_start", self._start)

    def detach(self) -> None:
        """The fit is over, one way or the other."""
        self.pause()
        if self._findings in self._desk.journal.reporters:
            self._desk.journal.reporters.remove(self._findings)
        if self.record.files is not None:
            self.record.files.close()

    def open(self) -> None:
        """From here on the run leaves a record, however it ends."""
        with self._sparing:
            self.record.open()

    def fail(self, error: BaseException) -> None:
        """``error`` has ended the run; the rest is written when the journal is closed, mostly after this."""
        self._error = error
        self.pause()
        if self.record.is_over:
            self._finish()

    def pause(self) -> None:
        """Something else than training steps comes next."""
        if not self._cost.is_looking:
            return
        with self._sparing:
            step, seconds = self._trainer.global_step, self.record.seconds
            if cost := self._cost.end(step, seconds):
                self._samples.take("cost", step, self._trainer.current_epoch, seconds, cost, every=0)

    def validated(self) -> None:
        """A validation has ended: have its numbers land with those of the next batch."""
        step, epoch = self._trainer.global_step, self._trainer.current_epoch
        metrics = dict(self._trainer.callback_metrics)  # on every rank: some are put together from all of them
        if not (metrics and self._trainer.is_global_zero):
            return

        def receive(numbers: list[list[float]]) -> None:
            values = {name: float(number[0]) for name, number in zip(metrics, numbers, strict=True)}
            with self._sparing:
                self._samples.take("validation", step, epoch, self.record.seconds, values, every=0)

        self._desk.meter.put([value.detach().reshape(1) for value in metrics.values()], receive)

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        several, clip = len(trainer.optimizers) > 1, clip_bound(trainer, pl_module)[0]
        self._blocks = StepBlocks(self.record.put, several=several, clip=clip)
        if trainer.is_global_zero:
            self.open()
            with self._sparing:
                self.record.info["schedule"] = schedule_facts(trainer, pl_module)
                self.record.write_run()
                self._take_rates()
        return True

    def _have_measured(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> bool:
        """Have the gradient norms measured in each step, unless somebody else does so anyway.

        The desk is called last, when all others have asked. What each rank decides here is the same.
        """
        self._steps += 1
        if self._steps <= _ASKED and self._desk.meter.has_norms(optimizer):
            return self._steps == _ASKED
        self._steps = _ASKED + 1
        self._desk.meter.gradient_norms(optimizer, self)
        return False

    def _take(self, reading: Reading) -> None:
        with self._sparing:
            step, seconds = reading.step, self.record.seconds
            self._blocks.take(reading, seconds)
            if reading.names and self._samples.is_due(("grad_norm", reading.optimizer), step):
                norms = dict(zip(reading.names, reading.grad_norms, strict=True))
                self._samples.take("grad_norm", step, reading.epoch, seconds, norms, series=reading.optimizer)
            if step >= self._rates_due or reading.epoch != self._rates_epoch:  # many schedules step with the epoch
                self._rates_due, self._rates_epoch = step + max(self._every, step // 100), reading.epoch
                self._take_rates()
            if cost := self._cost.take(step, seconds):
                self._samples.take("cost", step, reading.epoch, seconds, cost, every=0)
            self.record.flush_if_due(seconds)

    def _take_detail(self, detail: Detail) -> None:
        with self._sparing:
            self._samples.take(detail.kind, detail.step, detail.epoch, self.record.seconds, detail.values)

    def _take_logged(self, numbers: Mapping[str, float], step: int) -> None:
        with self._sparing:
            first = next(iter(numbers), "")
            self._samples.take("logged", step, None, self.record.seconds, numbers, series=first, every=1)

    def _take_graph(self, trainer: Trainer, pl_module: LightningModule, graph: Graph) -> None:
        with self._sparing:
            if self.record.files is not None:
                self.record.files.write_model(model_map(graph))

    def _take_rates(self) -> None:
        """The learning rates of the next step, if they are others than the last time; one on the device is not read."""
        optimizers = [getattr(wrapper, "optimizer", wrapper) for wrapper in self._trainer.optimizers]
        rates: dict[str, float] = {}
        for index, optimizer in enumerate(optimizers):
            for where, group in named_groups(optimizer, index, several=len(optimizers) > 1):
                lr = group.get("lr")
                if isinstance(lr, int | float) or (isinstance(lr, Tensor) and lr.is_cpu and lr.numel() == 1):
                    rates[where] = float(lr)
        if rates != self._rates:
            self._rates = rates
            step, epoch = self._trainer.global_step, self._trainer.current_epoch
            self._samples.take("lr", step, epoch, self.record.seconds, rates, every=0)

    def _finish(self) -> None:
        """The journal is closed, or an error came after that: write what is left, and the report."""
        with self._sparing:
            if not self.record.is_over and self._rates:
                self._take_rates()
            self._blocks.close()
            report = self.record.finish(self._error)
            if (files := self.record.files) is not None:
                where = (
                    f"the record of this run: {files.folder}" if report is None else f"the report of this run: {report}"
                )
                if where not in self._desk.journal.notes:  # a checkpoint of a run that was over has it too
                    self._desk.journal.note(where)


def _nothing(*_: Any) -> None:
    """On other ranks than the first: they take part, and keep nothing."""
