"""Looks at what the loss compares with (LT104, LT105, LT107, LT109)."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.checks._failed_loss import failed_loss
from lightning_tuning.checks._held import lasting, tell_if_it_harms
from lightning_tuning.checks._labels import LabelReader, is_label
from lightning_tuning.checks._parcels import Parcels
from lightning_tuning.checks._target_probe import TargetProbe
from lightning_tuning.findings import Finding
from lightning_tuning.rules.class_imbalance import ENOUGH_LABELS, class_imbalance, is_plain, label_terms
from lightning_tuning.rules.target_out_of_range import (
    LT104,
    label_out_of_range,
    may_be_masked,
    target_out_of_range,
)
from lightning_tuning.rules.target_shape_broadcast import broadcast_targets
from lightning_tuning.rules.unscaled_target import is_fresh, regressions, unscaled_target
from lightning_tuning.runtime import Check, Desk, FirstStep, Sparing
from lightning_tuning.trace import Graph, Probe, batch_tensors

__all__ = ["TargetCheck"]

_BATCHES = 50


class TargetCheck(Check):
    """Looks at what the loss compares with (LT104, LT105, LT107, LT109).

    Why: a loss falls whatever it is given. A class that the head has no output for (LT104) ends the run on CUDA with a
    message that names neither label nor line; a prediction (B, 1) against a target (B,) compares each sample with each
    other (LT105); one class in a hundred is lost without a trace (LT107); a target of 10000 is out of reach of a fresh
    head (LT109).

    The first step's targets are looked at before the loss runs (a device sync), so that the finding is there even if
    the run ends by it. The labels of up to fifty batches are counted, landing some batches later.

    Example:
        >>> trainer = Trainer(callbacks=[TargetCheck()], logger=False, accelerator="cpu")

    Source: Humbatova et al. 2020, Taxonomy of Real Faults in Deep Learning Systems.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._probe = TargetProbe()
        self._count: _LabelCount | None = None
        self._is_over = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to look."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._count, self._is_over = None, False
            desk = Desk.of(trainer)
            desk.watch("train_batch_start", self._at_batch)
            desk.watch("train_epoch_end", self._at_epoch_end)

    def probes(self) -> Sequence[Probe]:
        """What the targets of the losses are."""
        self._probe = TargetProbe()
        return (self._probe,)

    def look(self, step: FirstStep) -> Iterable[Finding]:
        """Judge the first batch's targets, and begin to count labels."""
        yield from self._out_of_range(step.batch, step.graph)
        self._probe = TargetProbe()
        yield from broadcast_targets(step.graph)
        if step.graph.blind:
            return
        unscaled = list(_unscaled(step))
        tell_if_it_harms(self, step.trainer, unscaled)
        yield from unscaled
        for name, term in label_terms(step.graph)[:1]:
            if is_label(step.batch[name]):
                classes = step.graph.values[term.prediction].shape[1]
                ignored = term.ignore_index
                self._count = _LabelCount(name, classes, ignored, is_plain=is_plain(term))
                self._count.take(step.batch[name].flatten().tolist())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is still under way lands."""
        with Sparing(Desk.of(trainer).journal, self):
            self._close(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The loss may have failed on what was seen before it ran."""
        if (desk := Desk.find(trainer)) is not None:
            # No number can be read from a device that has failed; and the run ends, whatever findings do.
            with Sparing(desk.journal, self), contextlib.suppress(RuntimeError):
                for finding in self._out_of_range(dict(batch_tensors(desk.tracer.batch)), None):
                    self.report(trainer, finding, once=True)
            with Sparing(desk.journal, self), contextlib.suppress(RuntimeError):
                self._close(trainer)
                known = any(finding.code == LT104.code for finding in desk.journal.findings)
                if not known and (failed := failed_loss(exception)) is not None:
                    self.report(trainer, failed, once=True)
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to a running fit."""
        return {**self.__dict__, "_probe": TargetProbe(), "_count": None}

    def _out_of_range(self, batch: Mapping[str, Tensor], graph: Graph | None) -> Iterator[Finding]:
        for found, name in self._probe.found(batch):
            finding = target_out_of_range(found, name)
            if finding is not None and not may_be_masked(graph, found.op):
                yield finding

    def _at_batch(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> bool:
        if self._count is None:
            return self._is_over  # or the first step has not been seen whole
        self._count.read(batch)
        self._tell(trainer)
        return self._count.is_done

    def _at_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        self._close(trainer)
        return True

    def _close(self, trainer: Trainer) -> None:
        if self._count is not None:
            self._count.end()
            self._tell(trainer)
        self._forget()

    def _tell(self, trainer: Trainer) -> None:
        for finding in [] if self._count is None else self._count.findings():
            self.report(trainer, finding, once=True)


class _LabelCount:
    """The labels of one tensor of the batch, counted as they pass."""

    def __init__(self, name: str, classes: int, ignored: int, *, is_plain: bool) -> None:
        self._name, self._classes, self._ignored, self._is_plain = name, classes, ignored, is_plain
        self._parcels = Parcels()
        self._reader = LabelReader(name, self._parcels, self.take)
        self._counts: Counter[int] = Counter()
        self._batches, self._landed = 1, 0
        self._found: list[Finding] = []
        self.is_done = False

    def read(self, batch: Any) -> None:
        """Send the labels of the next batch off."""
        self._reader.read(batch, self._batches)
        self._batches += 1
        self._parcels.end_of_batch()
        if self._landed >= _BATCHES and sum(self._counts.values()) >= ENOUGH_LABELS:
            self._judge()

    def take(self, labels: list[int], number: int = 0) -> None:
        """The labels of a batch have landed."""
        self._landed += 1
        self._counts.update(label for label in labels if label != self._ignored)
        finding = label_out_of_range(self._name, labels, self._classes, self._ignored, number)
        if number and finding is not None:
            self._found.append(finding)

    def end(self) -> None:
        """Judge what has been seen; waits for what is under way."""
        if not self.is_done:
            self._parcels.flush()
            self._judge()

    def _judge(self) -> None:
        self.is_done = True
        finding = class_imbalance(self._name, self._counts) if self._is_plain else None
        if finding is not None:
            self._found.append(finding)

    def findings(self) -> list[Finding]:
        """What was found since the last time."""
        found, self._found = self._found, []
        return found


def _unscaled(step: FirstStep) -> Iterator[Finding]:
    for name, _, layer in regressions(step.graph):
        parameters = dict(step.pl_module.named_parameters())
        tensors: list[Tensor] = [parameters[known] for known in layer.parameters if known in parameters]
        if len(tensors) == len(layer.parameters) and tensors and name in step.batch:
            weight, bias = tensors[0], tensors[1] if len(tensors) > 1 else None
            finding = unscaled_target(name, layer, step.batch[name]) if is_fresh(weight, bias) else None
            if finding is not None:
                yield lasting(finding)
