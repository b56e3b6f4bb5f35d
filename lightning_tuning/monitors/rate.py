"""LT408, LT508, LT509: does the learning rate suit the run, from its first steps to its last?"""

from __future__ import annotations

import functools
import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.findings import Journal
from lightning_tuning.measure import Reading
from lightning_tuning.monitors._rate_future import (
    comes_down,
    has_statistics,
    known_metrics,
    rates_now,
    was_averaged,
)
from lightning_tuning.rules._output_layer import only_output_layer
from lightning_tuning.rules.constant_rate_at_plateau import PlateauJudge
from lightning_tuning.rules.destructive_fine_tuning import FineTuningJudge
from lightning_tuning.rules.initial_loss_off import expected_loss
from lightning_tuning.rules.learning_rate_band import Rate, RateCourse
from lightning_tuning.runtime import Desk, Sparing, TuningCallback
from lightning_tuning.runtime.run_length import horizon_of, is_trial
from lightning_tuning.trace import Graph

__all__ = ["RateMonitor"]

_FEWEST_STEPS = 200
"""A run that is shorter has no plateau, only an end."""


class RateMonitor(TuningCallback):
    """Watches whether the learning rate suits the run (LT408, LT508, LT509).

    Why: a rate that is right for one part of a run is wrong for another. Said is

    - where a schedule, a finder or a hand of yours sets a rate outside of the band in which the optimizer usually works
      (LT408): above it, or below it long before the end. A warning only if it lasts while the run does not learn; what
      is outside from the start, ``OptimizerCheck`` says.
    - where the validation metrics are flat for ``patience`` validations, the training loss is too, and the rate is the
      same to the end of the run, by the schedule run on paper (LT508, an info). Known for optimizers of Adam's family
      and SGD; not for runs of less than 200 steps or with averaged weights.
    - where a net that was trained before loses what it knew within the first 200 steps (LT509). It counts as trained
      if its first loss is below half of ln K; if its batch norms have statistics; or if you say so.

    Nothing is changed, and no step waits for the device: losses land later; metrics are read after validations. Manual
    optimization and several optimizers are left alone but for the band.

    Args:
        patience: validations without gain that are a plateau; 5 by default: fewer are noise, more are wasted.
        pretrained: whether the net was trained before this run. Default ``None``: it is looked for.
        every_n_steps: batches from one look at the rates to the next; 20 by default, a rate changes slowly.

    Raises:
        ValueError: if ``patience`` or ``every_n_steps`` is less than 1, or ``pretrained`` no bool.

    Example:
        >>> trainer = Trainer(callbacks=[RateMonitor(pretrained=True)], logger=False, accelerator="cpu")

    Source: Google tuning playbook; Howard and Ruder 2018, ULMFiT; Mosbach et al. 2021.
    """

    thresholds = (("LT508", "patience"),)

    def __init__(self, patience: int = 5, *, pretrained: bool | None = None, every_n_steps: int = 20) -> None:
        for name, count in (("patience", patience), ("every_n_steps", every_n_steps)):
            if type(count) is not int or count < 1:
                raise ValueError(f"`{name}` must be a whole number of at least 1, got {count!r}.")
        if pretrained not in (None, True, False):
            raise ValueError(f"`pretrained` must be True, False or None, got {pretrained!r}.")
        self.patience = patience
        self.pretrained = pretrained
        self.every_n_steps = every_n_steps
        self._begin()

    def _begin(self) -> None:
        self._course = RateCourse()
        self._plateau = PlateauJudge(self.patience)
        self._tuning = FineTuningJudge()
        self._own: list[str] = []
        self._told_plateau = False
        self._is_resumed = False
        self._batches = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Subscribe to the losses; a new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._begin()
            desk = Desk.of(trainer)
            desk.watch_loss()
            desk.watch("train_start", self._start)
            desk.request_trace(self._see)
            desk.meter.subscribe(functools.partial(self._receive, trainer, desk.journal))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the validation's metrics."""
        desk = Desk.find(trainer)
        if desk is None or trainer.state.fn != "fit" or self._told_plateau:
            return
        with Sparing(desk.journal, self):
            if trainer.sanity_checking:
                self._plateau.begin(known_metrics(trainer))
                return
            self._look_at_plateau(trainer, pl_module, desk)

    def tuning_state(self) -> dict[str, Any]:
        """What the run has been like so far."""
        return {
            "course": self._course.state_dict(),
            "plateau": self._plateau.state_dict(),
            "tuning": self._tuning.state_dict(),
            "own": list(self._own),
            "told_plateau": self._told_plateau,
            "batches": self._batches,
        }

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self._course.load_state_dict(state["course"])
        self._plateau.load_state_dict(state["plateau"])
        self._tuning.load_state_dict(state["tuning"])
        self._own, self._told_plateau, self._batches = list(state["own"]), state["told_plateau"], state["batches"]
        self._is_resumed = True

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Everything is restored. A device sync where there are batch norms."""
        self._course.horizon = horizon_of(trainer).steps
        if self._is_resumed:
            return True
        if trainer.global_step > 0 or trainer.ckpt_path or self.pretrained is False:
            self._tuning.is_done = True  # where the loss of a resumed run began, nobody knows
        else:
            self._tuning.is_pretrained = bool(self.pretrained) or has_statistics(pl_module)
        return True

    def _see(self, trainer: Trainer, pl_module: LightningModule, graph: Graph) -> None:
        """The first step: what would the loss be of a net that knows nothing?"""
        with Sparing(Desk.of(trainer).journal, self):
            layer = graph.answer(only_output_layer)
            if (
                self._is_resumed
                or layer is None
                or layer.term.kind not in ("cross_entropy", "nll", "bce_logits", "bce")
            ):
                return
            expected = expected_loss(layer.term.kind, classes=layer.classes)
            if expected is not None:
                factor = layer.factor * trainer.accumulate_grad_batches
                self._tuning.baseline = expected.untrained * factor

    def _receive(self, trainer: Trainer, journal: Journal, reading: Reading) -> None:
        """A loss has landed."""
        if reading.loss is None:
            return
        if not self._tuning.is_done:
            self._judge_tuning(trainer, journal, reading)
        self._batches += 1
        if self._batches % self.every_n_steps == 0:
            with Sparing(journal, self):
                self._look_at_rates(trainer, journal, reading)

    def _judge_tuning(self, trainer: Trainer, journal: Journal, reading: Reading) -> None:
        if Desk.of(trainer).progress.mute:
            self._tuning.is_done = True
            return
        finding = self._tuning.judge(reading.step, float(reading.loss or 0.0))
        if finding is not None:
            journal.report(finding, step=reading.step, epoch=reading.epoch)

    def _look_at_rates(self, trainer: Trainer, journal: Journal, reading: Reading) -> None:
        for finding in self._course.judge(reading.step, rates_now(trainer)):
            if finding.where not in self._own:
                said = {(known.code, known.where) for known in journal.findings}
                is_explained = "since" in finding.evidence and any(code == "LT504" for code, _ in said)
                if is_explained or (finding.code, finding.where) in said:
                    continue
                self._own.append(finding.where)
            journal.report(finding, step=reading.step, epoch=reading.epoch)

    def _look_at_plateau(self, trainer: Trainer, pl_module: LightningModule, desk: Desk) -> None:
        rates = rates_now(trainer)
        if desk.progress.mute or not rates or not all(_is_judged(rate) for rate in rates):
            return
        is_flat = self._plateau.add(known_metrics(trainer), [rate.lr for rate in rates])
        if not is_flat or desk.progress.state not in ("converged", "flat") or trainer.global_step < _FEWEST_STEPS:
            return
        if is_trial(trainer) or was_averaged(trainer) or comes_down(trainer, pl_module):
            return
        self._told_plateau = True
        self.report(trainer, self._plateau.finding(trainer.global_step), once=True)


def _is_judged(rate: Rate) -> bool:
    return rate.family in ("adam", "sgd") and math.isfinite(rate.lr)
