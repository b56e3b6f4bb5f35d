"""Does the run learn, and if not, why not (LT801, LT802, LT803, LT805, LT806, LT807)?"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_tuning.findings import Diagnosis, Finding, ProgressState
from lightning_tuning.measure import Reading
from lightning_tuning.monitors._curve_judges import CurveJudges
from lightning_tuning.monitors._output_look import spread_of_outputs
from lightning_tuning.monitors._own_data import comes_from_the_net
from lightning_tuning.monitors._target_reader import TargetReader
from lightning_tuning.rules._baseline import LossForm, loss_form
from lightning_tuning.rules._moving_targets import acts_on_its_own, target_makers
from lightning_tuning.rules._suspects import diagnosis_of, with_suspects
from lightning_tuning.rules.predicting_the_prior import LOOKS, Spread, predicting_the_prior
from lightning_tuning.runtime import Desk, Sparing, TuningCallback
from lightning_tuning.trace import CannotReplay, Graph, why_not_live

__all__ = ["LearningCurveMonitor"]

_APART = 5
"""Batches from one look at the outputs to the next."""


class LearningCurveMonitor(TuningCallback):
    """Watches the training loss, says when a run does not learn (LT801, LT803, LT805) or goes wrong, and why.

    Why: a run that does not learn costs as much as one that does, and its curve looks busy. The loss is held against
    what the best constant answer would give to the same batches (the entropy of the labels, var(y), ln K), or against
    its own beginning where nobody knows that; after 200 batches and an epoch, within 2 % of it and not falling, it is
    LT801. The findings of all checks are named as likely causes, in the order of an explicit table, there and in the
    summary at the end. A net that gives all samples one answer is LT805: known by repeating three steps aside, of a
    flat run only, with everything put back. LT803: the loss swings and gets nowhere. LT802, LT807: it leaves its
    minimum, or jumps; these it leaves to a ``LossSpikeGuard``, if there is one. LT806 (info): the run ends in the midst
    of learning.

    Nothing is said of runs whose loss does not tell how they go: manual optimization, several optimizers (GANs),
    actions drawn from the net's own outputs, targets that are made by weights that move (DQN, BYOL), data made by the
    net itself. Of these the gate of all symptoms is told as well. Losses of other kinds than comparisons (contrastive
    ones) are judged only where they do not move at all.

    Changes nothing and never waits for the device: losses land some steps later. Every ``every_n_steps`` batches, until
    the run is seen to beat its baseline, three sums over the targets go along.

    Args:
        every_n_steps: batches from one whose targets are read to the next. Default 10: the forty that are kept tell a
            gain of 1 %.

    Raises:
        ValueError: if ``every_n_steps`` is not a whole number of at least 1.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LearningCurveMonitor()], logger=False, accelerator="cpu")

    Source: Karpathy 2019, A Recipe for Training Neural Networks; Zhang et al. 2021, AUTOTRAINER.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        if type(every_n_steps) is not int or every_n_steps < 1:
            raise ValueError(f"`every_n_steps` must be a whole number of at least 1, got {every_n_steps!r}.")
        self.every_n_steps = every_n_steps
        self._begin(None)

    def _begin(self, desk: Desk | None) -> None:
        self._desk = desk
        self._judges = CurveJudges()
        self._form: LossForm | None = None
        self._reader: TargetReader | None = None
        self._landed: dict[str, Any] | None = None
        self._groups: list[dict[str, Any]] = []
        self._makers: dict[str, tuple[nn.Parameter, int]] = {}
        self._spreads: list[Spread] = []
        self._rounds, self._until = 0, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Subscribe to the losses; a new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        desk = Desk.of(trainer)
        self._begin(desk)
        desk.watch_loss()
        desk.meter.subscribe(self._take)
        desk.request_trace(self._know)
        desk.journal.diagnose = self._diagnose

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn who else speaks of losses, and where the learning rate stands."""
        self._groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
        taken = {code for other in callbacks if isinstance(other, TuningCallback) for code in other.speaks_of}
        self._judges.leaves = frozenset(taken)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Send the targets of some batches along."""
        if batch_idx % self.every_n_steps or self._reader is None or not self._judges.wants_baseline:
            return
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            with Sparing(Desk.of(trainer).journal, self) as sparing:
                self._reader.send(loss, batch, divided_by=trainer.accumulate_grad_batches)
            if sparing.failed:
                self._reader = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the run as a whole."""
        desk = Desk.of(trainer)
        desk.flush()
        if desk.progress.mute:
            return
        if self._reader is not None:
            self._reader.flush()
        ended_by_itself = not (trainer.should_stop or trainer.interrupted)
        is_overfit = any(finding.code == "LT804" for finding in desk.journal.findings)
        with Sparing(desk.journal, self):
            self._look_at_baseline()
            for finding in self._judges.close(desk.progress, complete=ended_by_itself and not is_overfit):
                self._tell(finding, trainer.global_step, trainer.current_epoch)

    def tuning_state(self) -> dict[str, Any]:
        """The curve so far, and what is known of the targets."""
        moments = self._landed if self._reader is None else self._reader.moments.state_dict()
        return {"judges": self._judges.state_dict(), "moments": moments, "rounds": self._rounds}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self._judges.load_state_dict(state["judges"])
        self._landed, self._rounds = state["moments"], state["rounds"]

    def __getstate__(self) -> dict[str, Any]:
        # what is of this process, and this run, stays
        return {**self.__dict__, "_desk": None, "_reader": None, "_form": None, "_groups": [], "_makers": {}}

    def _know(self, trainer: Trainer, pl_module: LightningModule, graph: Graph) -> None:
        """The graph of the first step tells what kind of loss it is."""
        desk = Desk.of(trainer)
        if desk.progress.mute:
            return
        with Sparing(desk.journal, self):
            if reason := self._why_nothing_tells(trainer, pl_module, graph):
                self._mute(desk, reason)
                return
            form = graph.answer(loss_form)
            if why_not_live(pl_module) is None:  # the recorded loss was divided
                form = form._replace(factor=form.factor * trainer.accumulate_grad_batches)
            self._form = self._judges.form = form
            if form.target is not None:
                self._reader = TargetReader(form)
                if self._landed is not None:
                    self._reader.moments.load_state_dict(self._landed)

    def _why_nothing_tells(self, trainer: Trainer, pl_module: LightningModule, graph: Graph) -> str:
        if comes_from_the_net(trainer, pl_module):
            return "its data come from the net"
        if acts_on_its_own(graph):
            return "its loss is that of actions drawn from the net's own outputs"
        makers = graph.answer(target_makers)
        held = (p for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"])
        trained = {id(parameter) for parameter in held if parameter.requires_grad}
        named = dict(pl_module.named_parameters())
        self._makers = {name: (named[name], named[name]._version) for name in makers if name in named}
        return _BY_WEIGHTS if any(id(p) in trained for p, _ in self._makers.values()) else ""

    def _mute(self, desk: Desk, reason: str) -> None:
        desk.progress.mute = True
        self._reader = None
        desk.journal.note(f"LearningCurveMonitor judges nothing: no loss tells how this run goes, since {reason}.")

    def _take(self, reading: Reading) -> None:
        desk = self._desk
        if reading.loss is None or desk is None or desk.progress.mute:
            return
        rate = self._groups[0]["lr"] if len(self._groups) == 1 else max((g["lr"] for g in self._groups), default=0.0)
        found = self._judges.judge(reading.step, reading.loss, math.nan if isinstance(rate, Tensor) else rate)
        if found and not self._is_moved(desk):
            for finding in found:
                self._tell(finding, reading.step, reading.epoch)
        if self._judges.is_time:
            with Sparing(desk.journal, self):
                self._consider(desk, reading)

    def _consider(self, desk: Desk, reading: Reading) -> None:
        """Every fifty batches: does it learn?"""
        if self._is_moved(desk):
            return
        self._look_at_baseline()
        for finding in self._judges.consider(desk.progress, reading.epoch):
            self._tell(finding, reading.step, reading.epoch)
        is_due = self._rounds < 2 and self._judges.curve.batches >= self._until and self._judges.is_stuck
        if is_due and self._form is not None:
            self._rounds, self._until, self._spreads = self._rounds + 1, 4 * self._judges.curve.batches, []
            desk.watch("train_batch_start", self._look)

    def _is_moved(self, desk: Desk) -> bool:
        """Whether a weight that makes the targets was written to since the run began; then nothing is judged."""
        if any(maker._version != version for maker, version in self._makers.values()):
            self._mute(desk, _BY_WEIGHTS)
        return desk.progress.mute

    def _look_at_baseline(self) -> None:
        if self._reader is not None:
            self._judges.baseline = self._reader.moments.baseline()

    def _look(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> bool:
        """A batch of a flat run begins: repeat its step aside; true once all is seen."""
        if batch_idx % _APART:
            return False
        try:
            seen = spread_of_outputs(trainer, pl_module, batch, batch_idx)
        except (CannotReplay, RuntimeError) as obstacle:
            sentence = str(obstacle).splitlines()[0].rstrip(".")
            Desk.of(trainer).journal.note(f"blind here: {sentence}. May have missed LT805: LearningCurveMonitor.")
            return True
        if seen is None:
            return True
        spread, where = seen
        self._spreads.append(spread)
        if len(self._spreads) < LOOKS:
            return False
        if (finding := predicting_the_prior(self._spreads, where=where)) is not None:
            self._rounds = 2
            self._tell(finding, trainer.global_step, trainer.current_epoch)
        return True

    def _tell(self, finding: Finding, step: int, epoch: int) -> None:
        if self._desk is not None:
            finding = with_suspects(finding, self._desk.journal.findings)
            if "began" in finding.evidence:
                finding = dataclasses.replace(finding, step=int(finding.evidence["began"]))
            self._desk.journal.report(finding, step=step, epoch=epoch, once=finding.code in _ONCE)

    def _diagnose(self, findings: Any, progress: ProgressState) -> Diagnosis | None:
        if self._desk is not None:
            with Sparing(self._desk.journal, self):
                return diagnosis_of(findings, progress, self._judges.curve.batches)
        return None


_ONCE = ("LT801", "LT805", "LT806")
_BY_WEIGHTS = "its targets are made by weights that move with the net"
