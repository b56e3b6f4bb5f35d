"""The desk: what all tuning callbacks of one trainer share, kept by one callback that nobody has to attach."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from torch.optim import Optimizer

from lightning_tuning.findings import Journal
from lightning_tuning.measure import Meter, Progress
from lightning_tuning.runtime.collective import gather_findings, raise_together
from lightning_tuning.runtime.naming import Names
from lightning_tuning.runtime.reporting import report_by_default
from lightning_tuning.runtime.resting import rest, wake
from lightning_tuning.runtime.sparing import nothing_more_raised
from lightning_tuning.runtime.tracing import OnTrace, Tracer
from lightning_tuning.runtime.watching import Hook, Watcher, Watchers
from lightning_tuning.trace import Probe

__all__ = ["CHECKPOINT_KEY", "Desk"]

CHECKPOINT_KEY = "lightning_tuning"
"""Under which everything of ours lies in a Lightning checkpoint."""


class Desk(Callback):
    """Owns the journal, the meter, the progress and the trace of one ``Trainer``.

    The first tuning callback whose ``setup`` runs puts it into ``trainer.callbacks``, before the checkpoints, so that
    they save what it knows of the very step. It is called in no hook of the step in which nobody wants anything.
    """

    CHECKPOINT_NAME = "desk"
    _by_trainer: ClassVar[weakref.WeakKeyDictionary[Trainer, Desk]] = weakref.WeakKeyDictionary()

    def __init__(self, trainer: Trainer) -> None:
        self.journal, self.meter = Journal.of(trainer), Meter.of(trainer)
        self._progress = Progress.of(trainer)
        self.tracer, self.names = Tracer(), Names()
        self._watchers, self._running, self._watches_loss = Watchers(self.journal), False, False
        self._is_awake = self._shows_end = True

    @classmethod
    def of(cls, trainer: Trainer) -> Desk:
        """The desk of ``trainer``; a ``KeyError`` if no tuning callback was set up on it."""
        return cls._by_trainer[trainer]

    @classmethod
    def find(cls, trainer: Trainer) -> Desk | None:
        """The desk of ``trainer``; ``None`` where no tuning callback got as far as its ``setup``."""
        return cls._by_trainer.get(trainer)

    @classmethod
    def attach(cls, trainer: Trainer, stage: str) -> Desk:
        """The desk of ``trainer``, put in its place if need be; a new run begins if ``stage`` is ``"fit"``."""
        desk = cls._by_trainer.get(trainer)
        if desk is None:
            desk = cls._by_trainer[trainer] = cls(trainer)
            report_by_default(trainer, desk.journal)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
        if desk not in callbacks:
            checkpoints = (i for i, callback in enumerate(callbacks) if isinstance(callback, Checkpoint))
            callbacks.insert(next(checkpoints, len(callbacks)), desk)
        if not desk._running and stage == "fit":
            desk._open(trainer)
        return desk

    @property
    def progress(self) -> Progress:
        """How the run goes, by all that is known of it on the host."""
        self.meter.hand_on()
        return self._progress

    def request_trace(self, receive: OnTrace, probes: Sequence[Probe] = ()) -> None:
        """Let ``receive(trainer, pl_module, graph)`` be called once, at the first loss of this fit; it may read values.

        ``probes`` look at the values of operations while the step runs; see :class:`Probe`.
        """
        self.tracer.request(receive, probes)
        self._wake()

    def watch(self, hook: Hook, look: Watcher) -> None:
        """Have ``look`` called at every ``hook`` of this fit, until it returns true; then it costs nothing more.

        It is given the hook's arguments, and must not wait for the device in a steady step.
        """
        self._watchers.add(hook, look)
        self._wake()

    def watch_loss(self) -> None:
        """Have the training loss landed and judged in this fit; for callbacks that need the outcome of the run."""
        self._watches_loss = True
        self.meter.subscribe(self._judge)
        self._wake()

    def flush(self) -> None:
        """Land everything measured so far and judge it. A device sync: checkpoints and ends of runs only."""
        self.meter.flush()
        self.journal.rejudge(self._progress.state)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn whose outcome can be judged: one optimizer, stepped by Lightning."""
        self._progress.mute = not pl_module.automatic_optimization or len(trainer.optimizers) != 1
        self.meter.at_once = self.journal.on_finding == "raise"  # the run ends in the very batch
        self.journal.raise_together = self.journal.on_finding == "raise" and trainer.world_size > 1
        self._show("train_start", trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the trace, if one was asked for."""
        self._show("train_batch_start", trainer, pl_module, batch, batch_idx)
        if self.tracer.wanted:
            self.tracer.start(trainer, pl_module, batch, batch_idx)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The trace has reached a loss."""
        self.tracer.reach_loss(trainer, pl_module, loss)
        self._show("before_backward", trainer, pl_module, loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """This batch's gradients were added."""
        self._show("after_backward", trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are complete, the weights still old."""
        self._show("before_optimizer_step", trainer, pl_module, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Send the batch's numbers on their way, judge what has landed."""
        if self.tracer.running:
            self.tracer.finish(trainer, pl_module)
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self.meter.on_batch_end(loss if self._watches_loss and isinstance(loss, Tensor) else None)
        if self._is_awake or self._shows_end:
            self._show("train_batch_end", trainer, pl_module, outputs, batch, batch_idx)
        self._raise_together(trainer)
        if self._is_awake:
            self._rest()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A batch that the module left out in its ``on_train_batch_start`` had no end."""
        self.tracer.abandon()
        self._show("train_epoch_end", trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See :meth:`on_train_epoch_end`; validation may come first."""
        self.tracer.abandon()

    def on_validation_batch_start(self, *arguments: Any) -> None:
        """An evaluation step is about to run, of the sanity check as well."""
        self._show("validation_batch_start", *arguments)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The evaluation's own numbers are complete."""
        self._show("validation_epoch_end", trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ranks that wait to raise do so where all of them pass."""
        if self._running and not trainer.sanity_checking:
            self._raise_together(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last numbers land; who waited for a trace in vain is spoken for."""
        self.flush()
        self.tracer.abandon()
        if self.tracer.gave_up:
            self.journal.note("no training step could be traced (no loss in the first ones): its checks saw nothing.")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the ranks' findings together and sum up."""
        self._raise_together(trainer)
        if trainer.world_size > 1:
            self.journal.merge(gather_findings(self.journal.findings))
        self._running = False
        self.journal.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no trace behind and sum up what is known; other ranks may be gone, so nothing is gathered."""
        self.tracer.abandon()
        with nothing_more_raised():
            self.meter.hand_on()
        if self._running:
            self.journal.close()
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The next fit begins a new run."""
        self._running = False
        self.tracer.abandon()

    def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
        """A pickled trainer's callbacks find themselves a new desk; what this one was becomes an empty callback."""
        return Callback, ()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Findings, counters and the state of progress go with the run."""
        self.flush()
        checkpoint.setdefault(CHECKPOINT_KEY, {})[self.CHECKPOINT_NAME] = {
            "journal": self.journal.state_dict(),
            "progress": self._progress.state_dict(),
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with them."""
        if self._running and (state := checkpoint.get(CHECKPOINT_KEY, {}).get(self.CHECKPOINT_NAME)) is not None:
            self.journal.load_state_dict(state["journal"])
            self._progress.load_state_dict(state["progress"])

    def _open(self, trainer: Trainer) -> None:
        self._running, self._watches_loss = True, False
        self.journal.begin()
        self.journal.rank, self.journal.raise_together = trainer.global_rank, False
        self.meter.reset()
        self._progress.reset()
        self.tracer, self._watchers = Tracer(), Watchers(self.journal)
        self._wake()

    def _wake(self) -> None:
        """Be called in every hook, until the end of the next batch."""
        self._is_awake = True
        wake(self)

    def _rest(self) -> None:
        """Be called only where somebody wants something, until the next :meth:`_wake`."""
        self._is_awake = self.tracer.wanted
        if not self._is_awake:
            wanted = {f"on_{hook}" for hook in self._watchers.hooks}
            self._shows_end = "on_train_batch_end" in wanted
            if self._watches_loss or self.journal.raise_together or not self.meter.is_idle:
                wanted.add("on_train_batch_end")
            rest(self, wanted)

    def _show(self, hook: Hook, *arguments: Any) -> None:
        if self._running and self._watchers.show(hook, *arguments):
            self._wake()  # somebody has seen enough: see who is left

    def _judge(self, reading: Any) -> None:
        if reading.loss is not None and self._progress.update(reading.loss):
            self.journal.rejudge(self._progress.state)

    def _raise_together(self, trainer: Trainer) -> None:
        if self.journal.raise_together:
            raise_together(trainer, self.journal.take_pending())
