"""From a step's numbers to what is done about it: the machinery behind :class:`NanLossGuard`."""

from __future__ import annotations

import dataclasses
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_tuning.findings import Finding
from lightning_tuning.functional import global_norm, tensor_norms
from lightning_tuning.guards import _actions
from lightning_tuning.guards._averages import stand_before_averages
from lightning_tuning.guards._diagnosis import Scene, diagnose, facts_of, non_finite_anywhere
from lightning_tuning.guards._incident import Incident, Response
from lightning_tuning.guards._memory import Memory
from lightning_tuning.guards._ranks import exchange, read_together, several_ranks
from lightning_tuning.guards._samples import SampleIndices
from lightning_tuning.guards._snapshot import BatchSnapshot
from lightning_tuning.measure import Meter
from lightning_tuning.rules.non_finite import BadStep, broken_weights, judge_bad_step
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.trace import RngState

__all__ = ["StepGuard"]

_REPLAYS = 3
"""Bad batches of a fit that are replayed: a replay costs many times a step, a fourth would tell what three did."""


class StepGuard(TuningCallback):
    """Judges every batch before its update reaches the weights, and has its responses answer the bad ones.

    Args:
        action: ``"raise"``, ``"skip"`` or ``"stop"``.
        max_skips: batches in a row that ``"skip"`` may drop.
        replay: look for the operation by replaying the step.
    """

    def __init__(self, action: str, *, max_skips: int, replay: bool) -> None:
        self.action = action
        self.max_skips = max_skips
        self.replay = replay
        self._begin()

    def _make_responses(self) -> list[Response]:
        """What this guard does besides deciding; asked for anew by each fit, which begins with no memory."""
        return []

    def _begin(self) -> None:
        self._memory = Memory(_REPLAYS if self.replay else 0)
        self._samples = SampleIndices()
        self._responses = self._make_responses()
        self._scene = Scene()
        self._snapshot: BatchSnapshot | None = None
        self._meter: Meter | None = None
        self._checked_at: int | None = None
        self._minimums: tuple[int | None, int | None] | None = None
        self._together: bool | None = None
        self._keep_unscaled: Any = None  # asked with the trainer after each loss

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._begin()
            self._meter = Desk.of(trainer).meter
            _actions.refuse_discord(trainer, self)
            stand_before_averages(trainer, self)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be dropped, and watch what the loaders will draw."""
        if self.action in ("skip", "stop"):
            _actions.refuse_undroppable(trainer, f"`action` {self.action!r}")
        self._samples.begin(trainer)
        for response in self._responses:
            response.prepare(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the weights."""
        for response in self._responses:
            response.begin(trainer, pl_module)
        self._check_weights(trainer, pl_module, "before the first step" if not trainer.global_step else "when resumed")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Modules may have been added or replaced."""
        self._snapshot = None
        self._together = several_ranks()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep what is needed to undo the batch, and to run it again."""
        replay = self._memory.replays_left > 0
        wanted = replay or any(response.wants_rng for response in self._responses)
        self._scene = Scene(batch, batch_idx, RngState.capture() if wanted else None, replay=replay)
        if self._snapshot is None:
            self._snapshot = BatchSnapshot(pl_module, metrics=self.action != "raise")
        self._snapshot.take({} if self.action == "raise" else trainer._results or {})

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Remember the loss, on its device."""
        loss = loss if loss.ndim == 0 else loss.sum()
        self._scene.losses.append(loss.item() if loss.is_cpu else loss.detach())
        if self._keep_unscaled is not None:
            self._keep_unscaled(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Decide before the update."""
        norms = (self._meter or Desk.of(trainer).meter).gradient_norms(optimizer, self)
        self._scene.stepped = True
        self._decide(trainer, pl_module, norms.total, [optimizer])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decide on a batch that only accumulated; undo a bad one; count."""
        if not self._scene.stepped:
            if not self._scene.losses and pl_module.automatic_optimization:
                self._scene.losses += _actions.loss_without_backward(outputs)
            norm = global_norm(tensor_norms(_actions.local_gradients(trainer.optimizers))).to(pl_module.device)
            self._decide(trainer, pl_module, norm, trainer.optimizers)
        if self._scene.bad:
            self._undo(trainer)
        if self._scene.stepped or not pl_module.automatic_optimization:
            self._memory.count(dropped=self._scene.bad or self._memory.bad_window)
            self._memory.bad_window = False
        self._scene = self._scene.end()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the weights, before they are saved."""
        self._check_weights(trainer, pl_module, f"at the end of epoch {trainer.current_epoch}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the weights if nobody has since the last step, and sum up."""
        self._check_weights(trainer, pl_module, "at the end of the run")
        self._close(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Sum up, and let go of the batch."""
        self._close(trainer)

    def tuning_state(self) -> dict[str, Any]:
        """Counters, recent norms and findings; and of each response."""
        kept = {type(response).__name__: response.state_dict() for response in self._responses}
        return {**self._memory.state_dict(), "responses": {name: state for name, state in kept.items() if state}}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self._memory.load_state_dict(state)
        for response in self._responses:
            if (kept := state.get("responses", {}).get(type(response).__name__)) is not None:
                response.load_state_dict(kept)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scene": Scene(), "_snapshot": None, "_meter": None}  # those are of this process

    def _decide(
        self, trainer: Trainer, pl_module: LightningModule, norm: Tensor | float, optimizers: list[Optimizer]
    ) -> None:
        """Let the update pass or not; the same on every rank."""
        if not self._scene.bad:
            scene = self._scene
            numbers = [norm, *scene.losses, *scene.unscaled]
            (own, *others), suspicious = read_together(numbers, together=self._together)
            scene.seen += others[-len(scene.losses) :]
            if suspicious:
                self._examine(trainer, pl_module, optimizers)
            elif self._scene.stepped and not self._memory.bad_window:
                self._memory.norms.append(own)
            scene.losses.clear()
            scene.unscaled.clear()
        if self._scene.bad or self._memory.bad_window:
            for optimizer in optimizers:
                _actions.drop_gradients(trainer, optimizer, stepping=self._scene.stepped)
            self._scene.unmute = self._scene.unmute or _actions.mute_clipping(pl_module)

    def _examine(self, trainer: Trainer, pl_module: LightningModule, optimizers: list[Optimizer]) -> None:
        """Make sure that the batch is bad, find out why, and act."""
        everybody = exchange(facts_of(pl_module, optimizers, self._scene))
        if not any(facts.bad for facts in everybody):
            return  # the norm of finite gradients overflowed
        if _actions.scaler_of(trainer) is not None and not any(facts.bad_loss or facts.weights for facts in everybody):
            self._memory.amp_skips += self._scene.stepped
            return
        buffers = {} if self._snapshot is None else self._snapshot.buffers()
        clues: dict[str, Any] = {"buffers": buffers, "memory": self._memory, "samples": self._samples}
        step = diagnose(trainer, pl_module, self._scene, everybody, **clues)
        self._memory.replays_left = max(0, self._memory.replays_left - 1)
        self._scene.bad = True
        self._memory.bad_window |= pl_module.automatic_optimization and not self._scene.stepped
        finding = judge_bad_step(step)
        if step.origin is None and not step.blind:  # not replayed any more: taken for what the last one was
            finding = self._memory.told.get(finding.code, finding)
        finding = self._answered(trainer, pl_module, finding, step, buffers)
        self._act(trainer, finding, mendable=not step.weights)

    def _answered(
        self, trainer: Trainer, pl_module: LightningModule, finding: Finding, step: BadStep, buffers: dict[str, Tensor]
    ) -> Finding:
        """The finding with what the responses did about it; the same on every rank, for rank 0 is heard."""
        scene = self._scene
        incident = Incident(finding, step, scene.batch, scene.batch_idx, scene.rng, buffers, self.action)
        for response in self._responses:
            finding = response.amend(trainer, pl_module, incident)
            incident = dataclasses.replace(incident, finding=finding)
        self._memory.told[finding.code] = finding
        said = [response.answer(trainer, pl_module, incident) for response in self._responses]
        return dataclasses.replace(finding, message="; ".join([finding.message, *filter(None, said)]))

    def _act(self, trainer: Trainer, finding: Finding, *, mendable: bool) -> None:
        """Raise, or say what is dropped; the same on every rank, and rank 0 speaks for all."""
        in_a_row = self._memory.in_a_row if self._memory.in_a_row >= self.max_skips else 0
        if why := _actions.why_it_raises(self.action, mendable=mendable, in_a_row=in_a_row):
            self._undo(trainer)
            self.fail(trainer, dataclasses.replace(finding, message=f"{finding.message}; {why}"))
        desk = Desk.of(trainer)
        if self.action == "stop" and self._minimums is None:
            self._minimums = _actions.stop_run(trainer)
            desk.journal.note(f"NanLossGuard stopped the run at step {trainer.global_step}: {finding.code}")
        desk.meter.drop_batch()
        if desk.journal.on_finding == "raise":
            self._undo(trainer)
        if trainer.is_global_zero:
            self.report(trainer, finding)

    def _undo(self, trainer: Trainer) -> None:
        if self._snapshot is not None:
            self._snapshot.restore(trainer._results or {})

    def _check_weights(self, trainer: Trainer, pl_module: LightningModule, when: str) -> None:
        """LT703, once per step and not while the run ends for it; a frozen parameter may be a mask of -inf."""
        if self._checked_at == trainer.global_step or self._minimums is not None:
            return
        self._checked_at, self._snapshot = trainer.global_step, None  # the batch is over, with nothing to undo
        if names := non_finite_anywhere(item for item in pl_module.named_parameters() if item[1].requires_grad):
            norms, pace = tuple(self._memory.norms), self._memory.pace(trainer, pl_module)
            past: dict[str, Any] = {"norms": norms, "pace": pace, "step": trainer.global_step}
            self._act(trainer, broken_weights(names, when=when, **past), mendable=False)
        else:
            self._memory.look_at_weights(pl_module)
            for response in self._responses:
                response.look(trainer, pl_module)

    def _close(self, trainer: Trainer) -> None:
        if self._minimums is not None:
            _actions.restore_minimums(trainer, self._minimums)
            self._minimums = None
        if desk := Desk.find(trainer):  # none, if what ended the run came before its set-up
            desk.journal.notes += self._memory.notes()
            desk.journal.notes += [note for response in self._responses for note in response.notes()]
        for response in self._responses:
            response.end(trainer)
        self._samples.end()
        self._snapshot, self._scene = None, self._scene.end()
