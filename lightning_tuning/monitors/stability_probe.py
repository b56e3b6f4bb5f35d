"""LT511: does the learning rate suit the curvature of the loss? Measured now and then."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.functional.curvature import CurvatureError
from lightning_tuning.rules.rate_above_stability import EXCESS, StabilityJudge
from lightning_tuning.runtime import Desk, Sparing, TuningCallback
from lightning_tuning.runtime.tracing import iterator_in
from lightning_tuning.trace import CannotReplay
from lightning_tuning.trace.stability import NotYetError, Stability, mean_stability, of_all_ranks, stability_of

__all__ = ["StabilityProbe"]

_TRIES = 3
"""Batches in which a measurement that is due is tried: a step may return no loss for some."""


class StabilityProbe(TuningCallback):
    """Measures how sharply the loss curves, and says which learning rate that bears (LT511).

    Why: above 2 / sharpness (SGD; 2 (1 + b) / sharpness with momentum b, 38 / sharpness for Adam with its usual betas
    and in its own metric) each step overshoots by more than the last. That tells a rate that is too high from all else
    that keeps a loss from falling, and names one that is not. Full batches train *at* that edge and well, so it is said
    only of a rate clearly above in three of ten measurements, or far above at the start, and is a warning only in a run
    that does not learn.

    The step is repeated aside before the real one, and put back: the run is the same bit for bit. A measurement costs a
    training step and some 8 (at most ``iterations``) backward passes through the gradient, and memory for its graph and
    six copies of the parameters; therefore it is not part of :class:`TuningSuite`.

    A bound is known for SGD with and without momentum, and for Adam, AdamW, RMSprop and Adagrad after their first 100
    steps; of other optimizers the sharpness is logged and no more. Where nothing can be measured (several optimizers or
    losses, sharded models, operations without second derivative) the summary says so, and why. With several ranks each
    measures its own batch, without a word to the others, and the mean counts on all.

    Logs ``tuning/sharpness`` (units of the loss per unit of a parameter squared; divided as the optimizer divides) and
    ``tuning/sharpness_bound`` through the trainer's loggers.

    Args:
        every_n_steps: optimizer steps from one measurement to the next; ``None``: none but at the start. Default 100.
        at_start: measure before the first step too, or as soon as there is a bound. Default ``True``: later a rate that
            is far too high may have thrown the weights to where the loss is flat.
        iterations: products with the Hessian at most; it ends at a residual of 1 %. Default 20.
        excess: times the stable rate from which a rate is reported. Default 1.5.

    Attributes:
        stability: the last measurement; ``None`` before the first.

    Raises:
        ValueError: for an argument that is out of range, or where nothing would be measured.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> probe = StabilityProbe(every_n_steps=50)
        >>> trainer = Trainer(callbacks=[probe], logger=False, accelerator="cpu")

    Source: Cohen et al. 2021 and 2022.
    """

    def __init__(
        self,
        every_n_steps: int | None = 100,
        *,
        at_start: bool = True,
        iterations: int = 20,
        excess: float = EXCESS,
    ) -> None:
        if every_n_steps is not None and not _is_count(every_n_steps):
            raise ValueError(f"`every_n_steps` must be a whole number of at least 1 or None, got {every_n_steps!r}.")
        if every_n_steps is None and not at_start:
            raise ValueError(f"`every_n_steps` is None and `at_start` is {at_start!r}: nothing would be measured.")
        if not _is_count(iterations):
            raise ValueError(f"`iterations` must be a whole number of at least 1, got {iterations!r}.")
        if not 1 <= excess < math.inf:
            raise ValueError(f"`excess` must be at least 1 and finite, got {excess!r}.")
        self.every_n_steps = every_n_steps
        self.at_start = at_start
        self.iterations = iterations
        self.excess = excess
        self.stability: Stability | None = None
        self._judge = StabilityJudge(excess)
        self._seen, self._tries = -1, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.stability, self._judge = None, StabilityJudge(self.excess)
            self._seen, self._tries = -1, 0
            desk = Desk.of(trainer)
            desk.watch_loss()
            desk.watch("train_batch_start", self._look)

    def tuning_state(self) -> dict[str, Any]:
        """The step that was looked at last, how often a measurement is still to be tried, and what was found."""
        return {
            "seen": self._seen,
            "tries": self._tries,
            "above": list(self._judge.above),
            "judged": list(self._judge.seen),
        }

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self._seen, self._tries = state["seen"], state["tries"]
        self._judge.above, self._judge.seen = list(state["above"]), list(state["judged"])

    def _look(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> bool:
        """A batch begins; every rank comes here in the same step. True where this run cannot be measured."""
        step = trainer.global_step
        if step != self._seen:  # not a further batch of an accumulated step
            self._seen = step
            if self.at_start if step == 0 else self.every_n_steps and step % self.every_n_steps == 0:
                self._tries = self._tries or _TRIES  # one that is due still is tried no longer for that
        if not self._tries:
            return False
        own = self._of_this_rank(trainer, pl_module, batch, batch_idx)
        if own is None:
            return False  # on every rank
        measured = mean_stability(of_all_ranks(own))
        self._tries -= 1
        if measured is not None:
            self._tries = 0
            self.stability = measured
            self._tell(trainer, measured)
            return False
        if self._tries or self.stability is not None:
            return False
        _note(trainer, f"blind here: {own}. May have missed something: StabilityProbe.")
        return True

    def _tell(self, trainer: Trainer, measured: Stability) -> None:
        numbers = {"tuning/sharpness": measured.sharpness}
        if measured.bound is None:
            _note(trainer, f"StabilityProbe knows no stable learning rate: {measured.no_bound}.")
        else:
            numbers["tuning/sharpness_bound"] = measured.bound
        Desk.of(trainer).meter.log(numbers)
        if (finding := self._judge.judge(trainer.global_step, measured)) is not None:
            self.report(trainer, finding)

    def _of_this_rank(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> Stability | str | None:
        """What this rank has measured, or why it could not; ``None`` while it is too early."""
        if holder := iterator_in(pl_module):
            return f"`{holder}` is an iterator, of which a repetition of the step would use up a batch"
        with Sparing(Desk.of(trainer).journal, self):  # the other ranks wait for the outcome, whatever it is
            try:
                return stability_of(trainer, pl_module, batch, batch_idx, iterations=self.iterations)
            except NotYetError:
                return None
            except (CannotReplay, CurvatureError) as limit:
                return str(limit).rstrip(".")
        return "the measurement failed"


def _note(trainer: Trainer, sentence: str) -> None:
    journal = Desk.of(trainer).journal
    if sentence not in journal.notes:
        journal.note(sentence)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
