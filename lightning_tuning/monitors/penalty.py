"""LT411: is the loss mostly a penalty on the weights?"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.measure import Landing
from lightning_tuning.rules._penalty_terms import JOINING, PenaltyTerm, penalty_terms
from lightning_tuning.rules.penalty_dominates import PenaltyJudge, PenaltyReading
from lightning_tuning.runtime import Desk, Sparing, TuningCallback
from lightning_tuning.runtime.run_length import horizon_of
from lightning_tuning.trace import Graph
from lightning_tuning.trace.graph import Op

__all__ = ["PenaltyMonitor"]

_EARLIEST = 25
"""The second reading of a run whose length nobody knows; each later one is at twice the step."""


class PenaltyMonitor(TuningCallback):
    """Measures how much of the loss is an L1 or L2 penalty that the module adds by hand (LT411).

    Why: a coefficient that is too large shrinks the weights before they have learned, and the loss that is logged
    falls all the same. The operations of the first step tell whether the loss has summands that are norms of
    parameters and of nothing else. Without any (nearly every run; ``weight_decay`` of the optimizer is none, nor is
    a term that reads the data, as a VAE's) the callback is done and costs nothing. Else the step is recorded again,
    as the first one is, ten times in the run at most, at steps that double. Nothing is changed, and nothing waits for
    the device.

    Manual optimization and several losses are left alone.

    Logs ``tuning/penalty_share`` (of the loss, 0 to 1) through the trainer's loggers, where there is a penalty.

    Args:
        readings: at most, over the run; 10 by default, at least 3.

    Raises:
        ValueError: if ``readings`` is no whole number of at least 3.

    Example:
        >>> trainer = Trainer(callbacks=[PenaltyMonitor()], logger=False, accelerator="cpu")

    Source: Goodfellow et al. 2016, 7.1.
    """

    def __init__(self, readings: int = 10) -> None:
        if type(readings) is not int or readings < 3:
            raise ValueError(f"`readings` must be a whole number of at least 3, got {readings!r}.")
        self.readings = readings
        self._begin()

    def _begin(self) -> None:
        self._judge = PenaltyJudge()
        self._landing = Landing()
        self._values = _Scalars()
        self._taken = 0
        self._next = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the first step; a new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._begin()
            Desk.of(trainer).request_trace(self._see)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last reading lands."""
        self._landing.collect(wait=True)

    def tuning_state(self) -> dict[str, Any]:
        """What was read, and when to read again."""
        self._landing.collect(wait=True)
        return {"judge": self._judge.state_dict(), "taken": self._taken, "next": self._next} if self._taken else {}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self._judge.load_state_dict(state["judge"])
        self._taken, self._next = state["taken"], state["next"]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_landing": Landing(), "_values": _Scalars()}  # they are of this process

    def _see(self, trainer: Trainer, pl_module: LightningModule, graph: Graph) -> None:
        """The first step: is there a penalty at all?"""
        desk = Desk.of(trainer)
        with Sparing(desk.journal, self):
            if pl_module.automatic_optimization and len(trainer.optimizers) == 1 and graph.answer(penalty_terms):
                self._judge.horizon = horizon_of(trainer).steps
                desk.watch("train_batch_start", self._look)

    def _look(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> bool:
        """A batch begins: have its step recorded if it is time to."""
        if self._landing:
            self._landing.collect()
        step = trainer.global_step
        if step < self._next:
            return False
        if self._taken >= self.readings:
            return not self._landing
        self._taken += 1
        horizon = self._judge.horizon
        earliest = _EARLIEST if horizon is None else max(1, horizon // 2 ** (self.readings - 2))
        self._next = max(step + earliest, 2 * step)
        self._values = _Scalars()
        Desk.of(trainer).request_trace(self._take, (self._values,))
        return False

    def _take(self, trainer: Trainer, pl_module: LightningModule, graph: Graph) -> None:
        """A step was recorded: send what is to be read on its way."""
        desk, values = Desk.of(trainer), self._values
        with Sparing(desk.journal, self):
            terms, loss = graph.answer(penalty_terms), graph.losses[0]
            scales = [index for term in terms for index in (*term.multiplied_by, *term.divided_by)]
            wanted = list(dict.fromkeys([loss, *(term.value for term in terms), *scales]))
            if not terms or not all(index in values.seen for index in wanted):
                return
            step, epoch, log_step = trainer.global_step, trainer.current_epoch, desk.meter.log_step
            largest = max(terms, key=lambda term: graph.values[term.value].index)
            maker = graph.producer(largest.value)
            source_line = None if maker is None else maker.source_line

            def receive(numbers: list[list[float]]) -> None:
                known = dict(zip(wanted, numbers[0], strict=True))
                penalty = sum(_of(term, known) for term in terms)
                reading = PenaltyReading(step, penalty, known[loss] - penalty)
                if not math.isnan(reading.share) and trainer.loggers:
                    desk.meter.log({"tuning/penalty_share": reading.share}, log_step)
                finding = self._judge.judge(reading, source_line)
                if finding is not None:
                    desk.journal.report(finding, step=step, epoch=epoch)

            self._landing.send([torch.stack([values.seen[index] for index in wanted])], receive)


class _Scalars:
    """A probe that keeps a copy of every scalar that is read or made where scalars are put together."""

    def __init__(self) -> None:
        self.names: Collection[str] = JOINING
        self.seen: dict[int, Tensor] = {}
        self._last = -1

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """See one operation."""
        if op.index <= self._last:
            self.seen.clear()  # the step before gave no loss
        self._last = op.index
        if not outputs or outputs[0].numel() != 1:
            return
        for index, tensor in (*zip(op.inputs, inputs, strict=False), *zip(op.outputs, outputs, strict=False)):
            if index not in self.seen and tensor.numel() == 1:
                self.seen[index] = tensor.detach().reshape(()).to(outputs[0].device, torch.float32, copy=True)


def _of(term: PenaltyTerm, known: dict[int, float]) -> float:
    """What ``term`` adds to the loss."""
    value = term.factor * known[term.value]
    for index in term.multiplied_by:
        value *= known[index]
    for index in term.divided_by:
        value = value / known[index] if known[index] else math.nan
    return value
