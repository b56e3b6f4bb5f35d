"""The base class of every callback in this library."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_tuning.findings import Finding
from lightning_tuning.runtime.desk import CHECKPOINT_KEY, Desk
from lightning_tuning.runtime.resting import leave_out_empty_hooks

__all__ = ["TuningCallback"]


class TuningCallback(Callback):
    """A Lightning callback that shares one :class:`Desk` (meter, progress, trace, journal) with its siblings.

    Its state lives under the checkpoint's own ``"lightning_tuning"`` key instead of ``Callback.state_dict``: Lightning
    refuses two instances with one ``state_key`` there, and silently overwrites one by the other when they come from
    ``configure_callbacks``.
    """

    speaks_of: ClassVar[frozenset[str]] = frozenset()
    """Codes that observers leave to this callback where it is attached, since it also acts on them."""
    thresholds: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Codes with the arguments that say from where on they fire; settings can name those by the rule."""
    _checkpoint_name: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach the shared desk to ``trainer``; a subclass that overrides this calls it first."""
        desk = Desk.attach(trainer, stage)
        self._checkpoint_name = desk.names.of(self)
        if stage == "fit":
            leave_out_empty_hooks(self, trainer.callbacks)  # type: ignore[attr-defined]  # set by a connector

    def report(self, trainer: Trainer, finding: Finding, *, once: bool = False) -> None:
        """Stamp ``finding`` with the current step and epoch and hand it to the run's journal.

        Args:
            trainer: the trainer of the run.
            finding: what was found.
            once: a repeat (after a resume, say) is dropped instead of counted.
        """
        desk = Desk.of(trainer)
        desk.meter.hand_on()  # what was measured before it is told before it
        desk.journal.report(finding, step=trainer.global_step, epoch=trainer.current_epoch, once=once)

    def fail(self, trainer: Trainer, finding: Finding) -> NoReturn:
        """Record ``finding`` and end the run with it; for callbacks whose own action is to raise.

        Raises:
            TuningError: always. Every rank has to come here in the same step.
        """
        desk = Desk.of(trainer)
        desk.meter.hand_on()
        desk.journal.fail(finding, step=trainer.global_step, epoch=trainer.current_epoch)

    def tuning_state(self) -> dict[str, Any]:
        """What must survive a checkpoint: plain types and tensors that ``torch.load(weights_only=True)`` takes."""
        return {}

    def load_tuning_state(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`tuning_state`; called before the first batch of a resumed fit."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store :meth:`tuning_state`, with everything measured so far landed (a device sync, at checkpoints only)."""
        desk = Desk.find(trainer)
        if self._checkpoint_name is None or desk is None:
            return
        desk.flush()
        if state := self.tuning_state():
            checkpoint.setdefault(CHECKPOINT_KEY, {})[self._checkpoint_name] = state

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore :meth:`tuning_state`, if the checkpoint has one."""
        state = checkpoint.get(CHECKPOINT_KEY, {}).get(self._checkpoint_name)
        if state is not None:
            self.load_tuning_state(state)
