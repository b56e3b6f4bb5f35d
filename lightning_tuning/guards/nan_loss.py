"""Steps in before a loss, gradient or weight that is not finite ruins the run (LT701, LT702, LT703)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_tuning.findings import Finding
from lightning_tuning.functional import global_norm, tensor_norms
from lightning_tuning.guards import _actions
from lightning_tuning.guards._diagnosis import Scene, diagnose, facts_of, non_finite_anywhere
from lightning_tuning.guards._memory import Memory
from lightning_tuning.guards._ranks import exchange, read_together
from lightning_tuning.guards._snapshot import BatchSnapshot
from lightning_tuning.rules.non_finite import broken_weights, judge_bad_step
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.trace import RngState

__all__ = ["NanLossGuard"]

Action = Literal["raise", "skip", "stop"]

_REPLAYS = 3
"""Bad batches of a fit that are replayed: a replay costs many times a step, a fourth would tell what three did."""


class NanLossGuard(TuningCallback):
    """Steps in before a batch whose loss or gradient is NaN or infinite reaches the weights, and says why it was.

    Why: one such update makes every weight NaN, and a run of days is lost. The finding (LT701 loss, LT702 gradient,
    LT703 weight) names the first bad sample of the batch, or the operation, module and source line that made the first
    non-finite number, with the offending value: the step is replayed with the same batch, weights and random numbers,
    and everything is put back after it (the first three times only).

    What it does then is ``action``:

    - ``"raise"`` (default: whoever asked for nothing else should know at once) ends the run with :class:`TuningError`,
      weights, optimizer state and buffers (BN statistics) as before the batch.
    - ``"skip"`` drops the batch: parameters, optimizer state, buffers, torchmetrics states and Lightning's epoch means
      end bit-identical to before it; under gradient accumulation the gradients of its whole window are dropped.
      Schedulers and ``global_step`` go on, random numbers stay drawn, what was logged for the step itself stays NaN.
    - ``"stop"`` drops the batch likewise and ends the run in good order (validation, checkpoints), whatever
      ``min_epochs`` and ``min_steps`` ask.

    Weights that are broken themselves, found before the first step, at every epoch's end or in an incident, cannot be
    mended by skipping: ``"skip"`` raises then. A GradScaler's own skips (16-mixed) are counted in ``amp_skips`` and are
    no findings. With several ranks all do the same in the same batch, and the finding names whose batch it was. Under
    manual optimization the rest of a bad batch is dropped from its first bad loss on; optimizers that stepped before
    stay stepped. Attributes that a module updates itself (a hidden state carried along) are not put back.

    Price: the host waits for the device once per batch, to read a gradient norm (shared with the other callbacks) and
    the loss; a copy of all buffers; some 20 us for the random number generators while replays are left; with ``"skip"``
    and ``"stop"`` a copy of the metric states; with several ranks one all-reduce of one number.

    Args:
        action: see above.
        max_skips: batches in a row that ``"skip"`` may drop; the next raises. Default 10: eleven bad ones are no run.
        replay: whether to look for the operation by replaying the step. Not done with sharded parameters (FSDP,
            DeepSpeed), nor beyond the first collective of a step with several ranks.

    Raises:
        ValueError: for an unknown ``action``, a ``max_skips`` below 1, or a ``replay`` that is no bool.
        MisconfigurationException: for ``"skip"`` and ``"stop"`` in a fit with LBFGS or DeepSpeed; see the message.
        TuningError: see ``action`` and ``max_skips``.

    Example:
        >>> guard = NanLossGuard(action="skip")
        >>> trainer = Trainer(callbacks=[guard], logger=False, accelerator="cpu")
        >>> guard.skipped
        0

    Source: Google tuning playbook, on instability; Lightning issues 4956, 5152, 5243 (skipping without hanging DDP).
    """

    def __init__(self, action: Action = "raise", *, max_skips: int = 10, replay: bool = True) -> None:
        if action not in get_args(Action):
            raise ValueError(f"`action` must be one of {get_args(Action)}, got {action!r}.")
        if type(max_skips) is not int or max_skips < 1:
            raise ValueError(f"`max_skips` must be an integer of at least 1, got {max_skips!r}.")
        if type(replay) is not bool:
            raise ValueError(f"`replay` must be True or False, got {replay!r}.")
        self.action: Action = action
        self.max_skips = max_skips
        self.replay = replay
        self._begin()

    def _begin(self) -> None:
        self._memory = Memory(_REPLAYS if self.replay else 0)
        self._scene = Scene()
        self._snapshot: BatchSnapshot | None = None
        self._checked_at: int | None = None
        self._minimums: tuple[int | None, int | None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._begin()

    @property
    def skipped(self) -> int:
        """Updates dropped by this guard in the run; an accumulation window counts once."""
        return self._memory.skipped

    @property
    def amp_skips(self) -> int:
        """Updates dropped by the GradScaler."""
        return self._memory.amp_skips

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be dropped."""
        if self.action != "raise":
            _actions.refuse_undroppable(trainer, f"`action` {self.action!r}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the weights."""
        self._check_weights(trainer, pl_module, "before the first step" if not trainer.global_step else "when resumed")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Modules may have been added or replaced."""
        self._snapshot = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep what is needed to undo the batch, and to run it again."""
        self._scene = Scene(batch, batch_idx, RngState.capture() if self._memory.replays_left else None)
        if self._snapshot is None:
            self._snapshot = BatchSnapshot(pl_module, metrics=self.action != "raise")
        self._snapshot.take(trainer._results or {})

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Remember the loss, on its device."""
        self._scene.losses.append(loss.detach() if loss.ndim == 0 else loss.detach().sum())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Decide before the update."""
        norms = Desk.of(trainer).meter.gradient_norms(optimizer)
        self._scene.stepped = True
        self._decide(trainer, pl_module, norms.total, [optimizer])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decide on a batch that only accumulated; undo a bad one; count."""
        if not self._scene.stepped:
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
        """Counters, recent norms and findings."""
        return self._memory.state_dict()

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self._memory.load_state_dict(state)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scene": Scene(), "_snapshot": None}  # those are of this process

    def _decide(self, trainer: Trainer, pl_module: LightningModule, norm: Tensor, optimizers: list[Optimizer]) -> None:
        """Let the update pass or not; the same on every rank."""
        if not self._scene.bad:
            (own, *_), suspicious = read_together([norm, *self._scene.losses])
            if suspicious:
                self._examine(trainer, pl_module, optimizers)
            elif self._scene.stepped and not self._memory.bad_window:
                self._memory.norms.append(own)
            self._scene.losses.clear()
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
        step = diagnose(trainer, pl_module, self._scene, everybody, buffers=buffers, norms=self._memory.norms)
        self._memory.replays_left = max(0, self._memory.replays_left - 1)
        self._scene.bad = True
        self._memory.bad_window |= pl_module.automatic_optimization and not self._scene.stepped
        finding = judge_bad_step(step)
        if step.origin is None and not step.blind:  # not replayed any more: taken for what the last one was
            finding = self._memory.told.get(finding.code, finding)
        self._memory.told[finding.code] = finding
        self._act(trainer, finding, mendable=not step.weights)

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
            finding = broken_weights(names, when=when, norms=tuple(self._memory.norms), step=trainer.global_step)
            self._act(trainer, finding, mendable=False)

    def _close(self, trainer: Trainer) -> None:
        if self._minimums is not None:
            _actions.restore_minimums(trainer, self._minimums)
            self._minimums = None
        if desk := Desk.find(trainer):  # none, if what ended the run came before its set-up
            desk.journal.notes += self._memory.notes()
        self._snapshot, self._scene = None, self._scene.end()
