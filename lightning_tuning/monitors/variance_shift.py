"""LT302: does dropout shift the variance that batch norms keep for evaluation?"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.findings import Finding
from lightning_tuning.monitors._shift_trial import BATCHES, JUDGED, Held, ShiftTrial
from lightning_tuning.rules._norms import batch_norms
from lightning_tuning.rules.batchnorm_statistics_off import is_about_the_samples
from lightning_tuning.rules.dropout_before_batchnorm import dropout_batchnorm_conflicts
from lightning_tuning.rules.variance_shift import shifted, variance_shift
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.runtime.tracing import why_not_again
from lightning_tuning.trace import CannotReplay, Graph

__all__ = ["VarianceShiftMonitor"]

_AGAIN = 4
"""Times the batches of the first look, after which there is a second and last one: some shifts are gone by then."""


class VarianceShiftMonitor(TuningCallback):
    """Measures whether dropout makes batch norms keep a variance that is wrong in evaluation (LT302).

    Why: dropout before a batch norm is advice to look (LT301), for how much it hurts depends on the width: a layer that
    sums over hundreds of inputs hardly notices, and nets without harm are many. So it is measured, on a net that has
    learned for a while: the variance of what each batch norm behind a dropout is given, with dropout on and off, median
    over channels and batch norms above 1.3; and confirmed, by the loss without dropout, which has to fall by more than
    5 % if the statistics are estimated without dropout instead: against the running ones, and against the same
    batches' with dropout, since a lag of the running ones is another matter (LT323).

    It is looked at the end of the first epoch by which ``batches`` were trained on, and once more after four times as
    many or at the end of the last epoch, whichever comes first; the last look counts. Price: a look runs 8 training
    steps aside without their backward passes, and 24 more if the variance is shifted; until then the last 13 batches of
    training and 8 of validation are kept. Nets in which no active dropout feeds a batch norm on batch statistics cost
    nothing, as the first step tells. Left out under manual optimization, for losses that compare the samples of a
    batch, and where a step cannot be repeated. With several ranks each looks for itself.

    The loss is that of ``training_step``, on validation batches where they look like those of training.

    Args:
        batches: of training before the first look. Default 50: ten times what a running statistic with the usual
            momentum of .1 remembers.

    Raises:
        ValueError: if ``batches`` is below 1.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[VarianceShiftMonitor()], logger=False, accelerator="cpu")

    Source: Li et al. 2019, "Understanding the Disharmony between Dropout and Batch Normalization by Variance Shift".
    """

    def __init__(self, batches: int = 50) -> None:
        if type(batches) is not int or batches < 1:
            raise ValueError(f"`batches` must be a whole number of at least 1, got {batches!r}.")
        self.batches = batches
        self._begin()

    def _begin(self) -> None:
        self._dropouts: dict[str, tuple[str, float, str | None]] = {}
        self._training: Held = deque(maxlen=BATCHES + JUDGED + 1)
        self._validation: Held = deque(maxlen=JUDGED)
        self._first_loss: Tensor | float | None = None
        self._seen = 0
        self._due = self.batches
        self._looks = 0
        self._found: Finding | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the trace of the first step; a new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._begin()
            Desk.of(trainer).request_trace(self._look)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was found by the one look that there was."""
        self._say(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the batches."""
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self._let_go()

    def tuning_state(self) -> dict[str, Any]:
        """How far the run is, and what was looked at."""
        loss = None if self._first_loss is None else float(self._first_loss)
        found = None if self._found is None else self._found.to_dict()
        return {"seen": self._seen, "due": self._due, "looks": self._looks, "first_loss": loss, "found": found}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self._seen, self._due, self._looks = state["seen"], state["due"], state["looks"]
        self._first_loss = state["first_loss"]
        self._found = None if state["found"] is None else Finding.from_dict(state["found"])

    def __getstate__(self) -> dict[str, Any]:
        loss = None if self._first_loss is None else float(self._first_loss)
        return {**self.__dict__, "_training": deque(), "_validation": deque(), "_first_loss": loss}

    def _look(self, trainer: Trainer, pl_module: LightningModule, graph: Graph) -> None:
        """Is there anything to be measured in this run?"""
        calls = {norm.op.index: norm for norm in graph.answer(batch_norms) if norm.is_training and norm.is_tracking}
        for conflict in dropout_batchnorm_conflicts(graph):
            dropout = conflict.dropout
            for op in conflict.batch_norms:
                if op.index in calls:
                    path = calls[op.index].identity.rpartition(".")[0]
                    self._dropouts[path] = dropout.module, float(dropout.arguments["p"]), dropout.source_line
        if not self._dropouts or not is_about_the_samples(graph) or why_not_again(pl_module) is not None:
            return
        desk = Desk.of(trainer)
        desk.watch("train_batch_end", self._on_batch_end)
        desk.watch("validation_batch_start", self._on_validation_batch)
        desk.watch("train_epoch_end", self._on_epoch_end)

    def _on_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> bool:
        self._seen += 1
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if self._first_loss is None and isinstance(loss, Tensor):
            self._first_loss = loss.detach() * trainer.accumulate_grad_batches
        batches = trainer.num_training_batches
        if not math.isfinite(batches) or batch_idx >= batches - BATCHES - JUDGED - 1:
            self._training.append((batch, batch_idx))
        return self._is_done

    def _on_validation_batch(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> bool:
        if not trainer.sanity_checking and batch_idx < JUDGED and not dataloader_idx:
            self._validation.append((batch, batch_idx))
        return self._is_done

    def _on_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        training, validation = self._training.copy(), self._validation.copy()
        self._training.clear()
        self._validation.clear()
        if len(training) > 1:
            training.pop()  # it may be smaller than the others
        is_last = self._looks > 0 and trainer.current_epoch + 1 == trainer.max_epochs
        if (self._seen >= self._due or is_last) and training and self._first_loss is not None:
            self._looks += 1
            self._due = _AGAIN * self._seen
            found = self._measure(trainer, pl_module, training, validation)
            self._found = found and dataclasses.replace(found, step=trainer.global_step)
            if self._is_done:
                self._say(trainer)
        return self._is_done

    def _say(self, trainer: Trainer) -> None:
        found, self._found = self._found, None
        if found is not None:
            self.report(trainer, found, once=True)

    def _measure(
        self, trainer: Trainer, pl_module: LightningModule, training: Held, validation: Held
    ) -> Finding | None:
        """Run steps aside, and read what they tell."""
        try:
            trial = ShiftTrial(trainer, pl_module, training, validation)
            ratios = trial.ratios(self._dropouts)
            Desk.of(trainer).meter.details.publish("variance_shift", trainer.global_step, trainer.current_epoch, ratios)
            if shifted(ratios) is None:
                return None
            losses = trial.losses()
        except CannotReplay as limit:
            Desk.of(trainer).journal.note(f"blind here: {limit} May have missed something: VarianceShiftMonitor.")
            self._looks = 2
            return None
        known = {"dropouts": self._dropouts, "batches": self._seen}
        return variance_shift(ratios, losses, first_loss=float(self._first_loss or 0.0), **known)  # type: ignore[arg-type]

    @property
    def _is_done(self) -> bool:
        return self._looks >= 2

    def _let_go(self) -> None:
        self._training.clear()
        self._validation.clear()
