"""Watches the training loss for spikes and divergence (LT807, LT802), and goes back to before them."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.findings import Finding, Severity
from lightning_tuning.guards import _actions
from lightning_tuning.guards._loss_watch import LossWatch, check_loss_arguments
from lightning_tuning.guards._rollback import CannotGoBack, Rollback, check_rollback_arguments, times_gone_back
from lightning_tuning.runtime import Desk, TuningCallback

__all__ = ["LossSpikeGuard"]

Action = Literal["rollback", "stop", "warn"]


class LossSpikeGuard(TuningCallback):
    """Watches the training loss; where a spike does not recover, or the loss diverges, goes back to before it began.

    Why: a few bad batches or one step too large throw a run to where it was hours ago, or for good; the weights are
    finite, so nothing else stops it. A spike (LT807) is a loss of ``factor`` times its recent mean for ``patience``
    steps on end; it is an info if it recovers. It is a warning if after ``recovery`` more steps the loss is still up,
    does not fall, and half of all that the run had gained is lost (all of it, if the learning rate had just risen: warm
    restarts are no accident). The loss diverges (LT802, a warning) where its means over 50 batches stay at ``factor``
    times their minimum five times in a row, with half of the gain lost. Losses around or below 0 are judged by their
    own noise and gain: see :class:`~lightning_tuning.rules.loss_spike.SpikeJudge` and
    :class:`~lightning_tuning.rules.diverging_loss.DivergenceJudge`.

    What it does upon a warning is ``action``:

    - ``"rollback"`` (default) puts back parameters, buffers, optimizer states, averaged weights and the GradScaler's
      scale, bit for bit, of a time before the spike began (no copies are made while one is under way); cuts the
      learning rate for good; and goes on with the next batches, so that those around the spike are not seen again.
      ``global_step``, schedules, data order and random numbers go on. Over the next 50 steps it looks whether the loss
      is back at its level, and says so in the summary. After ``max_rollbacks`` it only warns.
    - ``"stop"`` ends the run in good order (validation, checkpoints), whatever ``min_epochs`` and ``min_steps`` ask.
    - ``"warn"`` changes nothing.

    Nothing is judged under manual optimization or with several optimizers (GANs), where no single loss tells how the
    run goes; not meant for reinforcement learning, where a rising loss may be success. With several ranks the mean of
    their losses is judged, and all do the same after the same batch. Under gradient accumulation it acts between two
    windows. A ``NanLossGuard`` may go back in the same run: either guard lets go of what the other one undid.

    Price: no wait for the device. On one CPU the loss of each batch is read at once; on an accelerator it is copied
    along and read two batches later, as with several ranks, which also pay one asynchronous all-reduce of two numbers
    per batch. Some 20 us of Python per batch. With ``"rollback"`` memory for two copies of the state on the CPU, and a
    copy every ``snapshot_every_n_steps`` steps.

    Args:
        action: see above.
        factor: of the recent mean, and of the minimum; above 1. Default 2.
        patience: high losses in a row that are a spike. Default 5: one odd batch is none.
        window: batches in the recent mean. Default 200.
        recovery: batches that a spike is given to recover, again and again as long as it falls. Default 20.
        zscore: how many standard deviations above the smoothed mean a loss is high (ZClip's measure), instead of
            ``factor`` times the mean; what does not recover is then taken seriously whatever it costs. For runs whose
            loss never doubles, such as language models: try 4. Default ``None``.
        snapshot_every_n_steps: optimizer steps between two copies. Default 100; less than 50 may be too young where
            the loss diverges slowly.
        lr_factor: learning rate after a rollback over that before it, whatever schedule there is. Default .5.
        max_rollbacks: how many a run may have. Default 3.

    Raises:
        ValueError: for an argument outside of what is said above.
        MisconfigurationException: for ``"rollback"`` in a fit under FSDP, ModelParallelStrategy or DeepSpeed.

    Example:
        >>> trainer = Trainer(callbacks=[LossSpikeGuard()], logger=False, accelerator="cpu")

    Source: Chowdhery et al. 2022, PaLM, 5.1; MosaicML llm-foundry, loss spikes; Kumar et al. 2025, ZClip.
    """

    speaks_of = frozenset({"LT802", "LT807"})

    def __init__(
        self,
        action: Action = "rollback",
        *,
        factor: float = 2.0,
        patience: int = 5,
        window: int = 200,
        recovery: int = 20,
        zscore: float | None = None,
        snapshot_every_n_steps: int = 100,
        lr_factor: float = 0.5,
        max_rollbacks: int = 3,
    ) -> None:
        if action not in get_args(Action):
            raise ValueError(f"`action` must be one of {get_args(Action)}, got {action!r}.")
        settings: dict[str, Any] = {"patience": patience, "window": window, "recovery": recovery, "zscore": zscore}
        check_loss_arguments(factor=factor, **settings)
        check_rollback_arguments(
            snapshot_every_n_steps=snapshot_every_n_steps, lr_factor=lr_factor, max_rollbacks=max_rollbacks
        )
        self.action: Action = action
        self._patience = patience
        self._loss_settings: dict[str, Any] = {"factor": factor, **settings}
        self._rollback_settings: dict[str, Any] = {
            "every_n_steps": snapshot_every_n_steps,
            "lr_factor": lr_factor,
            "max_rollbacks": max_rollbacks,
        }
        self._begin()

    def _begin(self) -> None:
        self._watch = LossWatch(**self._loss_settings)
        self._rollback = Rollback(**self._rollback_settings) if self.action == "rollback" else None
        self._gone_back = 0
        self._minimums: tuple[int | None, int | None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._begin()

    @property
    def rollbacks(self) -> int:
        """How often this guard went back in the run."""
        return 0 if self._rollback is None else len(self._rollback.records)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be copied."""
        self._gone_back = times_gone_back(trainer)
        if self._rollback is not None:
            self._rollback.begin(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the state if that is due and all is well."""
        self._watch.batch_start(trainer)
        if self._rollback is not None and self._watch.is_well and not Desk.of(trainer).progress.mute:
            self._rollback.batch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Send the loss on its way; judge what has arrived, between two accumulation windows."""
        if Desk.of(trainer).progress.mute or not self._watch.batch_end(trainer, outputs):
            return
        self._notice(trainer)  # that another guard went back
        for loss, found in self._watch.arrived():
            if self._rollback is not None:
                self._rollback.batch_end(trainer, pl_module, loss)
            for finding in found:
                self._tell(trainer, self._answered(trainer, pl_module, finding))
            if self._notice(trainer):
                break

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the last losses, with nothing done about them any more, and sum up."""
        for loss, found in self._watch.arrived(everything=True):
            if self._rollback is not None:
                self._rollback.batch_end(trainer, pl_module, loss)
            for finding in found:
                self._tell(trainer, finding)
        if (last := self._watch.close()) is not None:
            self._tell(trainer, last)
        if Desk.of(trainer).progress.mute:
            Desk.of(trainer).journal.note("LossSpikeGuard judged nothing: no single loss tells how this run goes.")
        self._close(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Sum up, and let go of the copies."""
        self._close(trainer)

    def tuning_state(self) -> dict[str, Any]:
        """What is usual in this run, what is under way, and what was done."""
        rollback = {} if self._rollback is None else self._rollback.state_dict()
        return {"watch": self._watch.state_dict(), "rollback": rollback}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self._watch.load_state_dict(state["watch"])
        if self._rollback is not None and state["rollback"]:
            self._rollback.load_state_dict(state["rollback"])

    def _answered(self, trainer: Trainer, pl_module: LightningModule, finding: Finding) -> Finding:
        """The finding with what was done about it; every rank does the same."""
        if finding.severity < Severity.WARNING:
            return finding
        if self.action == "stop" and self._minimums is None:
            self._minimums = _actions.stop_run(trainer)
            note = f"LossSpikeGuard stopped the run at step {trainer.global_step}: {finding.code}"
            Desk.of(trainer).journal.note(note)
        if self._rollback is None or self._gone_back != times_gone_back(trainer):
            return finding  # nothing to be done, or done a moment ago for the other code
        done = _way_back(self._rollback, trainer, pl_module, finding, margin=self._patience)
        return dataclasses.replace(finding, message=f"{finding.message}; {done}")

    def _tell(self, trainer: Trainer, finding: Finding) -> None:
        """Rank 0 speaks for all."""
        if trainer.is_global_zero:
            self.report(trainer, dataclasses.replace(finding, step=int(finding.evidence["began"])))

    def _notice(self, trainer: Trainer) -> bool:
        """Whether the weights were put back since the last look, by this guard or by another; if so, start afresh."""
        if self._gone_back == times_gone_back(trainer):
            return False
        self._gone_back = times_gone_back(trainer)
        self._watch.drop()
        return True

    def _close(self, trainer: Trainer) -> None:
        if self._minimums is not None:
            _actions.restore_minimums(trainer, self._minimums)
            self._minimums = None
        if self._rollback is not None:
            if desk := Desk.find(trainer):  # none, if what ended the run came before its set-up
                desk.journal.notes += self._rollback.notes()
            self._rollback.end()


def _way_back(
    rollback: Rollback, trainer: Trainer, pl_module: LightningModule, finding: Finding, *, margin: int
) -> str:
    """Go back to before ``finding`` began, if there is a state of ``margin`` steps before; half a sentence."""
    began, why = int(finding.evidence["began"]), ""
    for step in (began - margin, began - 1, began):
        try:
            return rollback.go_back(trainer, pl_module, reason=finding.code, not_after_step=step)
        except CannotGoBack as refusal:
            why = str(refusal)
    return why
