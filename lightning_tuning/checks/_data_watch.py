"""What passes in the first batches of one fit: numbers that are not finite, sameness, order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Trainer

from lightning_tuning.checks._labels import LabelReader, is_label
from lightning_tuning.checks._loader import gives_items_by_index, gives_items_in_order, overfits_on_purpose
from lightning_tuning.checks._parcels import Parcels
from lightning_tuning.checks._rows import FeatureRange, prints, row_states
from lightning_tuning.findings import Finding
from lightning_tuning.rules._leaves import model_inputs
from lightning_tuning.rules.class_imbalance import label_terms
from lightning_tuning.rules.constant_feature import constant_features, feature_axes
from lightning_tuning.rules.degenerate_input import ENOUGH_BATCHES, Print, degenerate_input
from lightning_tuning.rules.non_finite_input import is_allowed, non_finite_input, tolerated_leaves
from lightning_tuning.rules.unshuffled_training_data import LabelOrder
from lightning_tuning.runtime import FirstStep
from lightning_tuning.trace import batch_tensors

__all__ = ["DataWatch"]

_FEATURE_BATCHES = 10
_EARLY_CLASSES = 3
"""That came one after the other in the first batches: no need to wait for the end of the epoch."""


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The state of each sample of one tensor of one batch."""

    name: str
    states: list[float]
    number: int
    step: int


class DataWatch:
    """Looks at the batches of one fit. Until an epoch or the run ends it never waits for the device.

    Args:
        batches: how many to look at.
        every: then each of so many; ``None`` is none.
        allow: globs of key paths that may hold what is not finite.

    Attributes:
        findings: what was found and not yet taken away by :meth:`take`.
    """

    def __init__(self, batches: int, every: int | None, allow: Sequence[str]) -> None:
        self.findings: list[Finding] = []
        self._first, self._every, self._allow = batches, every, allow
        self._parcels = Parcels()
        self._number = 0
        self._rows: list[_Rows] = []
        self._tolerated: set[str] | None = None
        self._prints: list[dict[str, list[Print]]] = []
        self._inputs: dict[str, int] | None = None
        self._may_repeat = True
        self._features: dict[str, FeatureRange] = {}
        self._labels: LabelReader | None = None
        self._order = LabelOrder()

    def take(self) -> list[Finding]:
        """What was found since the last time."""
        findings, self.findings = self.findings, []
        return findings

    def at_batch(self, trainer: Trainer, batch: Any) -> bool:
        """A batch is about to be used; true once nothing more is to be seen."""
        number, self._number = self._number, self._number + 1
        if number < self._first or (self._every is not None and number % self._every == 0):
            self._send_rows(batch, number, trainer.global_step)
        if number < ENOUGH_BATCHES and trainer.current_epoch == 0:
            self._send_prints(batch)
        if self._features:
            self._take_features(batch)
        if self._labels is not None:
            self._labels.read(batch, number)
        self._parcels.end_of_batch()
        self._judge()
        return self._every is None and number >= self._first and self._labels is None and not self._features

    def know(self, step: FirstStep) -> None:
        """The graph is there, and tells which of the batch's tensors is what."""
        graph = step.graph
        self._tolerated = tolerated_leaves(graph, list(step.batch))
        if graph.blind or overfits_on_purpose(step.trainer):
            return
        inputs = [leaf for leaf in graph.answer(model_inputs) if leaf.name is not None]
        self._inputs = {str(leaf.name): _values_per_sample(leaf.shape) for leaf in inputs}
        self._may_repeat = not gives_items_by_index(step.trainer)
        self._features = {name: FeatureRange(axis) for name, axis in feature_axes(graph).items()}
        for name, features in self._features.items():
            features.take(step.batch[name])
        names = [name for name, _ in label_terms(graph)]
        if names and gives_items_in_order(step.trainer) and is_label(labels := step.batch[names[0]]):
            self._labels = LabelReader(names[0], self._parcels, lambda found, _: self._order.take(found))
            self._order.take([int(label) for label in labels.flatten().tolist()])

    def end_of_epoch(self) -> None:
        """Waiting is allowed, and what goes by epochs can be judged."""
        self._send_features()
        self._parcels.flush()
        self._judge()
        self._judge_prints(enough=1)
        if self._labels is not None and (finding := self._order.finding(self._labels.name)) is not None:
            self.findings.append(finding)
        self._labels = None

    def end(self) -> None:
        """The run is over, however it ended; what is not finite is told even of a step that was never seen whole."""
        self._parcels.flush()
        if self._tolerated is None:
            self._tolerated = set()
        self._judge()

    def _send_rows(self, batch: Any, number: int, step: int) -> None:
        for name, tensor in batch_tensors(batch):
            states = None if is_allowed(name, self._allow) else row_states(tensor)
            if states is not None:
                self._parcels.put([states], self._receive_rows(name, number, step))

    def _receive_rows(self, name: str, number: int, step: int) -> Callable[[list[list[float]]], None]:
        def receive(numbers: list[list[float]]) -> None:
            if any(numbers[0]):
                self._rows.append(_Rows(name, numbers[0], number, step))

        return receive

    def _send_prints(self, batch: Any) -> None:
        found: dict[str, list[Print]] = {}
        self._prints.append(found)
        for name, tensor in batch_tensors(batch):
            if (columns := prints(tensor)) is not None:
                self._parcels.put(columns, _receive_prints(found, name))

    def _take_features(self, batch: Any) -> None:
        tensors = dict(batch_tensors(batch))
        for name, features in self._features.items():
            if name in tensors and tensors[name].dim() > features.axis:
                features.take(tensors[name])
        if self._number >= _FEATURE_BATCHES:
            self._send_features()

    def _send_features(self) -> None:
        features, self._features = self._features, {}
        for name, found in features.items():
            if found.ends is not None:
                self._parcels.put(found.ends, self._receive_features(name, found))

    def _receive_features(self, name: str, found: FeatureRange) -> Callable[[list[list[float]]], None]:
        def receive(numbers: list[list[float]]) -> None:
            lows, highs = numbers
            finding = constant_features(name, lows, highs, found.samples, channels=found.is_of_maps)
            if finding is not None:
                self.findings.append(finding)

        return receive

    def _judge(self) -> None:
        if self._tolerated is not None:
            rows, self._rows = self._rows, []
            for found in rows:
                finding = non_finite_input(found.name, found.states, found.number)
                if finding is not None and found.name not in self._tolerated:
                    self.findings.append(dataclasses.replace(finding, step=found.step))
        self._judge_prints(enough=ENOUGH_BATCHES)
        if self._labels is not None:
            early = self._order.batches >= self._first and self._order.classes >= _EARLY_CLASSES
            if early and (finding := self._order.finding(self._labels.name)) is not None:
                self.findings.append(finding)
            if self._order.is_cleared or early:
                self._labels = None

    def _judge_prints(self, enough: int) -> None:
        landed = [found for found in self._prints if found]
        if self._inputs is None or len(landed) < max(1, enough):
            return
        finding = degenerate_input(landed, self._inputs, may_repeat=self._may_repeat)
        self._prints, self._inputs = [], None
        if finding is not None:
            self.findings.append(finding)


def _receive_prints(found: dict[str, list[Print]], name: str) -> Callable[[list[list[float]]], None]:
    def receive(numbers: list[list[float]]) -> None:
        low, high, total, projection = numbers
        found[name] = list(zip(low, high, total, projection, strict=True))

    return receive


def _values_per_sample(shape: tuple[int, ...]) -> int:
    values = 1
    for size in shape[1:]:
        values *= size
    return values
