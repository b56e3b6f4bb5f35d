"""Training steps run aside with dropout on and off, by one and by other statistics."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.measure.normalizer import Call, Normalizer, Seen, pooled
from lightning_tuning.rules.variance_shift import LossesBy
from lightning_tuning.trace import CannotReplay, RngState, batch_tensors, replay
from lightning_tuning.trace.alone import alone

__all__ = ["BATCHES", "JUDGED", "Held", "ShiftTrial"]

BATCHES = 4
"""Batches of training on which statistics are estimated."""

JUDGED = 8
"""Batches on which a loss is, at most."""

Held = deque[tuple[Any, int]]
"""Batches and their indices."""


class ShiftTrial:
    """Asks what dropout does to the batch norms behind it; every step is run aside, from the same random numbers.

    Args:
        trainer: the trainer of the run.
        pl_module: its LightningModule, in training mode.
        training: batches that were trained on, the last of which are used.
        validation: batches for the loss, where there are any that ``training_step`` takes; else those of ``training``
            that no statistics are estimated on.
    """

    def __init__(self, trainer: Trainer, pl_module: LightningModule, training: Held, validation: Held) -> None:
        self._trainer, self._module = trainer, pl_module
        self._given = [*itertools.islice(training, BATCHES)]
        self._judged = [*itertools.islice(training, BATCHES, None)] or self._given
        if self._given and validation and _shapes(validation[0][0]) == _shapes(self._given[0][0]):
            self._judged = [*validation]
        self._rng = RngState.capture()
        self._by: dict[bool, dict[Call, Seen]] = {}

    def ratios(self, paths: Collection[str]) -> dict[str, float]:
        """The variance of what batch norms are given, with dropout over without: the median over channels.

        Args:
            paths: of the batch norms; of several calls of one the largest ratio counts.

        Raises:
            CannotReplay: if the steps cannot be run.
        """
        for drops in (True, False):
            seen = []
            for held in self._given:
                mode = Normalizer(self._module, drops=drops)
                self._run(held, mode)
                seen.append(mode.seen)
            self._by[drops] = pooled(seen)
        calls = [call for call in self._by[True] if call.path in paths and call in self._by[False]]
        if not calls:
            return {}
        medians = torch.stack([_median(self._by[True][call].var, self._by[False][call].var) for call in calls]).tolist()
        found: dict[str, float] = {}
        for call, ratio in zip(calls, medians, strict=True):
            found[call.path] = max(ratio, found.get(call.path, ratio))
        return found

    def losses(self) -> LossesBy:
        """The loss without dropout by running statistics, and by those that :meth:`ratios` has seen.

        Raises:
            CannotReplay: as :meth:`ratios`.
        """
        kinds: tuple[Any, ...] = ("running", self._by[True], self._by[False])
        rows = [[self._run(held, Normalizer(self._module, by, drops=False)) for held in self._judged] for by in kinds]
        flat = torch.stack([loss.float() for row in rows for loss in row]).tolist()
        length = len(self._judged)
        return LossesBy(*(flat[i * length : (i + 1) * length] for i in range(3)))

    def _run(self, held: tuple[Any, int], mode: Normalizer) -> Tensor:
        batch, index = held
        try:
            with alone():
                losses = replay(self._trainer, self._module, batch, index, rng=self._rng, context=mode.entered())
        except CannotReplay:
            raise
        except Exception as error:
            raise CannotReplay(f"The repeated training_step raised {type(error).__name__}: {error}") from error
        if len(losses) != 1:
            raise CannotReplay("The repeated training_step returned no loss.")
        return losses[0].detach()


def _median(with_dropout: Tensor, without: Tensor) -> Tensor:
    """Over the channels that are not constant; NaN where there is none."""
    ratio = with_dropout.float() / without.float()
    return ratio.masked_fill(without.float() < 1e-3 * without.float().mean(), torch.nan).nanmedian()


def _shapes(batch: Any) -> list[tuple[str, Iterable[int], torch.dtype]]:
    return [(path, tensor.shape[1:], tensor.dtype) for path, tensor in batch_tensors(batch)]
