"""Watches the relative gradients of a run's first steps (LT202)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from lightning_tuning.findings import Journal
from lightning_tuning.measure import Meter, Reading
from lightning_tuning.rules.gradient_spread import gradient_spread, is_adaptive, relative_gradients
from lightning_tuning.runtime import Sparing

__all__ = ["SpreadWatch"]

_STEPS = (2, 5, 10)
"""Optimizer steps to look at. Not the first: what starts behind a zero has no gradient yet. Three, as many as the
outcome gate asks for, since a spread that fades is no illness."""


class SpreadWatch:
    """Has the gradient norms of three steps measured, and judges them when they have landed."""

    def __init__(self) -> None:
        self._weights: Mapping[str, float] = {}
        self._optimizer = ""
        self._adaptive = True
        self._looks: dict[int, dict[str, float]] = {}

    def compare(self, weights: Mapping[str, float]) -> None:
        """Compare these weights, given with their norms at the start."""
        self._weights = weights

    def measure(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> bool:
        """An optimizer is about to step; true when nothing remains to be measured."""
        step = trainer.global_step
        if step >= 1 and len(self._weights) < 2:
            return True  # nothing to compare, or nothing was seen in the first step
        if step in _STEPS:
            Meter.of(trainer).gradient_norms(optimizer, self)
            raw = getattr(optimizer, "optimizer", optimizer)
            self._optimizer, self._adaptive = type(raw).__name__, is_adaptive(raw)
        return step >= _STEPS[-1]

    def judge(self, journal: Journal, reading: Reading) -> None:
        """A reading has landed; what is wrong with it goes to ``journal``."""
        if len(self._weights) < 2 or not self._optimizer or reading.step not in _STEPS:
            return
        with Sparing(journal, "InitCheck"):
            self._compare(journal, reading)

    def _compare(self, journal: Journal, reading: Reading) -> None:
        gradients = dict(zip(reading.names, reading.grad_norms, strict=True))
        self._looks[reading.step] = relative_gradients(gradients, self._weights)
        if len(self._looks) == len(_STEPS):
            looks = list(self._looks.values())
            finding = gradient_spread(looks, adaptive=self._adaptive, optimizer=self._optimizer)
            if finding is not None:
                finding = dataclasses.replace(finding, count=len(looks), step=_STEPS[0])
                journal.report(finding, step=reading.step, epoch=reading.epoch, once=True)
