"""The way back: the run is put to where it was sound, and goes on from there with smaller steps."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_tuning.guards._rollback_rate import cut_rates, rates_text
from lightning_tuning.guards._rollback_record import RollbackRecord
from lightning_tuning.guards._rollback_shelf import Shelf, Snapshot

__all__ = ["CannotGoBack", "Rollback", "check_rollback_arguments", "times_gone_back"]

_DONE: weakref.WeakKeyDictionary[Trainer, int] = weakref.WeakKeyDictionary()


class CannotGoBack(RuntimeError):  # noqa: N818  # a limit that is said, not an error of the run
    """There is no state to go back to, or it was done too often; the message says which, as half a sentence."""


def check_rollback_arguments(snapshot_every_n_steps: int, lr_factor: float, max_rollbacks: int) -> None:
    """See that the arguments of a guard with rollbacks make sense.

    Raises:
        ValueError: naming the argument, what it got and what is allowed.
    """
    for name, value in (("snapshot_every_n_steps", snapshot_every_n_steps), ("max_rollbacks", max_rollbacks)):
        if type(value) is not int or value < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")
    if type(lr_factor) not in (int, float) or not 0 < lr_factor <= 1:
        raise ValueError(f"`lr_factor` must be a number above 0 and at most 1, got {lr_factor!r}.")


def times_gone_back(trainer: Trainer) -> int:
    """How often any guard put back the weights of ``trainer``: who remembers losses or states has to know."""
    return _DONE.get(trainer, 0)


class Rollback:
    """Copies the state of a run now and then, and puts it back when asked.

    Copied are parameters, buffers, optimizer states, the GradScaler's scale and the averages of ``WeightAveraging`` and
    ``StochasticWeightAveraging``; see :class:`TrainingState`. Put back they are equal bit for bit. What counts goes on:
    ``global_step``, epochs, the data (the bad window is not seen again), random number generators (no number is drawn
    twice), metrics, loggers, and the learning rate schedules, which Lightning steps by its own count. The rate is cut,
    and stays so: see :func:`cut_rates`.

    A copy counts as sound once the batch after it was judged so, and its numbers are finite. The last two sound ones
    are kept, so that what is noticed late can be undone too. The state at the start of a fit counts at once. Where
    another guard of the same run goes back, the copies are let go: they may be of what it undid.

    Every rank has to make the same calls. Price: memory for two copies; per ``every_n_steps`` steps one copy, for which
    the host does not wait, and one read of a flag.

    Args:
        every_n_steps: steps (of ``trainer.global_step``) between two copies.
        lr_factor: learning rate after a rollback over that before it.
        max_rollbacks: how many a run may have.
        verify_steps: batches after a rollback over which the loss is watched. Default 50.
        device: where the copies are kept. Default ``"cpu"``: it has more memory than an accelerator.
    """

    def __init__(
        self,
        *,
        every_n_steps: int,
        lr_factor: float,
        max_rollbacks: int,
        verify_steps: int = 50,
        device: torch.device | str = "cpu",
    ) -> None:
        self.every_n_steps = every_n_steps
        self.lr_factor = lr_factor
        self.max_rollbacks = max_rollbacks
        self.verify_steps = verify_steps
        self.records: list[RollbackRecord] = []
        self._shelf = Shelf(every_n_steps, torch.device(device))
        self._gone_back = 0

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training starts.

        Raises:
            MisconfigurationException: where the state of a run cannot be copied from outside.
        """
        if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
            raise MisconfigurationException(
                f"A rollback cannot copy the state of a run under {type(trainer.strategy).__name__}, which keeps "
                "parameters in pieces of its own; allowed is an `action` that drops the batch only, such as 'skip'."
            )
        self._shelf.clear()
        self._gone_back = times_gone_back(trainer)

    def batch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the state if that is due; to be called at the start of every batch."""
        if self._gone_back != times_gone_back(trainer):
            self._gone_back = times_gone_back(trainer)
            self._shelf.clear()
        self._shelf.batch_start(trainer, pl_module)

    def batch_end(self, trainer: Trainer, pl_module: LightningModule, loss: float | None) -> None:
        """Learn how the batch was; to be called at the end of every batch, after it was judged.

        Args:
            trainer: the trainer of the run.
            pl_module: its LightningModule.
            loss: of the batch; not finite if anything of the batch was not, or if it was dropped; ``None`` if it had
                none. The same on all ranks as to whether it is finite.
        """
        if loss is None:
            return
        record = self.records[-1] if self.records else None
        if record is not None and record.is_open:
            record.see(loss)
            if len(record.after) == record.watch:
                record.rates_later = rates_text(trainer)
        self._shelf.batch_end(loss)

    def outlook(
        self, trainer: Trainer, pl_module: LightningModule, *, not_after_step: int | None = None
    ) -> tuple[str, str]:
        """What :meth:`go_back` would do now: why it would refuse, or else what it would do, as half a sentence."""
        target = self._target(trainer, pl_module, not_after_step)
        if isinstance(target, str):
            return target, ""
        return "", f"the run goes back to the weights of step {target.state.step}, learning rate x {self.lr_factor:g}"

    def go_back(
        self, trainer: Trainer, pl_module: LightningModule, *, reason: str, not_after_step: int | None = None
    ) -> str:
        """Put the newest sound state back and cut the learning rate; between two batches (``on_train_batch_end``).

        Gradients are dropped. In the middle of an accumulation window the caller drops the rest of the window.

        Args:
            trainer: the trainer of the run.
            pl_module: its LightningModule.
            reason: what for, in a word or two; for the closing summary.
            not_after_step: go back to a state of this step or an earlier one. Default: the newest.

        Returns:
            What was done, as half a sentence.

        Raises:
            CannotGoBack: where :meth:`outlook` says why.
        """
        target = self._target(trainer, pl_module, not_after_step)
        if isinstance(target, str):
            raise CannotGoBack(target)
        started, before = time.monotonic(), rates_text(trainer)
        target.state.restore(trainer, pl_module)
        cut_rates(trainer, self.lr_factor)
        if self.records:
            self.records[-1].close("another rollback")
        record = RollbackRecord(
            number=len(self.records) + 1,
            reason=reason,
            at_step=trainer.global_step,
            to_step=target.state.step,
            undone=trainer.global_step - target.since,
            lost_seconds=started - target.time,
            seconds=time.monotonic() - started,
            rates=(before, rates_text(trainer)),
            before=target.losses,
            watch=self.verify_steps,
        )
        self.records.append(record)
        self._shelf.drop_after(target, trainer.global_step)
        _DONE[trainer] = times_gone_back(trainer) + 1
        self._gone_back += 1
        return record.done()

    def notes(self) -> list[str]:
        """One line per rollback: what was undone, what it cost, what came after."""
        return [record.sentence(self.max_rollbacks) for record in self.records]

    def end(self) -> None:
        """The run is over: let go of the copies."""
        self._shelf.clear()

    def state_dict(self) -> dict[str, Any]:
        """What was done so far, in plain types; copies are not kept in checkpoints, nor needed: they are one."""
        return {"records": [record.state_dict() for record in self.records]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self.records = [RollbackRecord.from_state_dict(record) for record in state["records"]]
        if self.records:
            self.records[-1].close("resumed from a checkpoint")

    def __getstate__(self) -> dict[str, Any]:
        # The copies are of this process.
        return {**self.__dict__, "_shelf": Shelf(self.every_n_steps, self._shelf.device)}

    def _target(self, trainer: Trainer, pl_module: LightningModule, not_after_step: int | None) -> Snapshot | str:
        """The state to go back to, or why there is none."""
        if len(self.records) >= self.max_rollbacks:
            return f"given up after {self.max_rollbacks} rollback{'s' * (self.max_rollbacks > 1)} (`max_rollbacks`)"
        target = self._shelf.newest(not_after_step)
        if target is None:
            which = "" if not_after_step is None else f" of step {not_after_step} or before"
            return f"there is no sound state{which} to go back to"
        if not target.state.fits(trainer, pl_module):
            return f"no way back to step {target.state.step}: parameters or optimizers were replaced since"
        return target
