"""The late part of the batch norm check: do the running statistics follow, and are they those of the data? (LT323)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.findings import Finding
from lightning_tuning.measure import plain_name
from lightning_tuning.measure.normalizer import Call, Normalizer, Seen
from lightning_tuning.rules._norms import BatchNorm, counter_of
from lightning_tuning.rules.batchnorm_statistics_off import are_settled, statistics_off, unmoved_statistics
from lightning_tuning.trace import CannotReplay, RngState, replay

__all__ = ["StatisticsWatch"]

_MOVES = 20
"""Batches after which running statistics that have not moved at all will not."""

_MANY = 200
"""Batches to wait for where nobody knows when the epoch ends."""

_FINE = (torch.float32, torch.float64)


class Kept(NamedTuple):
    """What a batch norm had at some moment: running statistics; scale and shift; its count of batches."""

    statistics: list[Tensor]
    affine: list[Tensor]
    counter: list[Tensor]


class StatisticsWatch:
    """Follows the batch norms of one fit until it can be said whether their statistics are right.

    In the first batch and behind it, it keeps copies of them, a few numbers per channel: who puts the statistics back
    does so at the start or at the end of each batch. Near the end of the first epoch that has had enough batches it
    runs steps aside, with the same random numbers, so that masks of dropout and noise are the same: one to see its
    statistics, and the next one normalized by its own, by the running ones, and by those of the one before. The last
    tells data that differ from batch to batch from weights that have moved on since: where steps are large the running
    statistics of a healthy net lag behind as much, those of the batch before do not. It reads the numbers at the
    epoch's end, once.

    Args:
        norms: calls of the first step that normalize by the batch and track.
        counted: identities of those that count their batches.
        pl_module: whose they are.
        may_replay: the step can be run aside without harm, and its one loss says how it goes.
    """

    def __init__(
        self, norms: Sequence[BatchNorm], counted: set[str], pl_module: LightningModule, *, may_replay: bool
    ) -> None:
        self._norms = {norm.identity: norm for norm in norms}
        self._counted = counted
        self._kept = [self._keep(pl_module)]
        self._may_replay = may_replay
        self._batches = 0
        self._first_loss: Tensor | None = None
        self._losses: list[Tensor] = []
        self._previous: Normalizer | None = None
        self._seen: dict[Call, Seen] = {}
        self._is_done = False

    def on_second_batch(self, pl_module: LightningModule) -> None:
        """All that is done after a batch has been done."""
        self._kept.append(self._keep(pl_module))

    def on_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        """Count, and where it is time, run the step twice aside."""
        self._batches += 1
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if self._first_loss is None and isinstance(loss, Tensor):
            self._first_loss = loss.detach() * trainer.accumulate_grad_batches
        if self._may_replay and not self._is_done:
            self._compare(trainer, pl_module, batch, index)

    def on_epoch_end(self, pl_module: LightningModule) -> tuple[Finding | None, bool]:
        """What is wrong, and whether all that can be said has been said. Reads a few numbers: a device sync."""
        if self._batches < _MOVES:
            return None, False
        if unmoved := self._unmoved(pl_module):
            momentum = unmoved[0].op.arguments.get("momentum")
            paths = [norm.op.module for norm in unmoved]
            return unmoved_statistics(paths, batches=self._batches, momentum=momentum), True
        return (self._off() if self._is_done else None), self._is_done or not self._may_replay

    def _is_time(self, trainer: Trainer, index: int) -> bool:
        """At the last but two of the epoch, since the last may be a small one; of an unknown number when many were."""
        batches = trainer.num_training_batches
        comes = index == max(int(batches) - 3, 0) if math.isfinite(batches) else self._batches >= _MANY
        momenta = [float(norm.op.arguments.get("momentum") or 0.0) for norm in self._norms.values()]
        return comes and are_settled(self._batches, momenta)

    def _run(self, trainer: Trainer, pl_module: LightningModule, batch: Any, index: int, *modes: Normalizer) -> None:
        """The step once aside in each of ``modes``, from the same random numbers."""
        rng = RngState.capture()
        try:
            for mode in modes:
                losses = replay(trainer, pl_module, batch, index, rng=rng, context=mode.entered())
                self._losses += [loss.detach() for loss in losses[:1]]
        except CannotReplay:
            self._may_replay = False

    def _compare(self, trainer: Trainer, pl_module: LightningModule, batch: Any, index: int) -> None:
        if self._previous is None:
            if self._is_time(trainer, index):
                self._previous = Normalizer(pl_module)
                self._run(trainer, pl_module, batch, index, self._previous)
            return
        self._losses.clear()
        by_batch = Normalizer(pl_module)
        others = Normalizer(pl_module, by="running"), Normalizer(pl_module, by=self._previous.seen)
        self._run(trainer, pl_module, batch, index, by_batch, *others)
        self._seen = by_batch.seen
        self._previous, self._is_done = None, True

    def _off(self) -> Finding | None:
        if len(self._losses) < 3 or self._first_loss is None:
            return None
        distances = [(call.path, seen.distance) for call, seen in self._seen.items()]
        return statistics_off(
            *(float(loss) for loss in (*self._losses, self._first_loss)),
            batches=self._batches,
            distances=[(path, float(distance)) for path, distance in distances],
        )

    def _unmoved(self, pl_module: LightningModule) -> list[BatchNorm]:
        """The batch norms that trained without their statistics."""
        now = self._keep(pl_module)
        asked = [name for name in now if all(name in kept for kept in self._kept)]  # the others were replaced
        if not asked:
            return []
        answers = [
            torch.stack([
                *(_differ(kept[name].statistics, now[name].statistics) for kept in self._kept),
                _differ(self._kept[0][name].affine, now[name].affine),
                _differ(self._kept[0][name].counter, now[name].counter),
            ])
            for name in asked
        ]  # fmt: skip
        unmoved = []
        read: list[list[bool]] = torch.stack([answer.to(answers[0].device) for answer in answers]).tolist()
        for name, (*moved, has_trained, has_counted) in zip(asked, read, strict=True):
            norm = self._norms[name]
            stood = not all(moved) or (name in self._counted and not has_counted)
            if stood and (has_trained or norm.op.arguments.get("momentum") == 0):
                unmoved.append(norm)
        return unmoved

    def _keep(self, pl_module: LightningModule) -> dict[str, Kept]:
        """Copies by identity; none of batch norms whose buffers are too coarse to show a small move."""
        tensors: dict[str, Tensor] = {plain_name(name): p for name, p in pl_module.named_parameters()}
        tensors.update((plain_name(name), buffer) for name, buffer in pl_module.named_buffers())
        kept = {}
        for identity, norm in self._norms.items():
            names = [[str(v.name) for v in norm.statistics], [str(v.name) for v in norm.affine], [counter_of(norm)]]
            statistics, affine, count = ([tensors[n].detach() for n in group if n in tensors] for group in names)
            if len(statistics) == len(norm.statistics) and all(t.dtype in _FINE for t in statistics):
                kept[identity] = Kept(*([t.clone() for t in group] for group in (statistics, affine, count)))
        return kept


def _differ(before: Sequence[Tensor], now: Sequence[Tensor]) -> Tensor:
    """Whether any of them changed, unread."""
    device = now[0].device if now else None
    changed = [(old != new).any().to(device) for old, new in zip(before, now, strict=False)]
    return torch.stack(changed).any() if changed else torch.zeros((), dtype=torch.bool)
