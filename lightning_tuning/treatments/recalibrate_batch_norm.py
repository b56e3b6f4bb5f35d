"""Take the running statistics of batch norms anew before they are used."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.functional.batch_norm import tracking_batch_norms
from lightning_tuning.runtime import Desk, TuningCallback
from lightning_tuning.trace import CannotReplay
from lightning_tuning.treatments._batch_statistics import Held, estimate_statistics, fresh_batches, write_statistics

__all__ = ["RecalibrateBatchNorm"]

When = Literal["validation", "end"]
Data = Literal["recent", "loader"]


class RecalibrateBatchNorm(TuningCallback):
    """Takes the running statistics of batch norms anew, on batches of training with dropout off.

    What a batch norm evaluates with is a running average over training: it lags behind the weights where they move
    fast, it is dominated by the last few batches, and it was taken with dropout on, which evaluation switches off
    (variance shift). Here every statistic becomes the plain mean over ``batches`` batches of the batch's mean and
    variance, by the weights as they are, dropout and all other noise of modules switched off.

    The batches are run aside through ``training_step``: weights, gradients, random numbers, torchmetrics and logged
    values stay as they are, and so does training itself, which does not use running statistics: they go on from the new
    values. Batch norms in evaluation mode during training are frozen and left alone. With several ranks each
    runs its own batches, and the statistics are averaged, so that all ranks have the same. ``BatchRenorm`` trains by
    its running statistics: there training does change.

    Price: a forward pass of ``batches`` batches each time (without dropout, with gradients recorded), and with
    ``data="recent"`` as many batches kept on the device.

    Limits. ``F.batch_norm`` on buffers of one's own is not a module and stays as it is. Where a step cannot be run
    aside (sharded parameters, ``dataloader_iter``) the summary says so. ``training_step`` must not change its batch.
    Kept batches are in no checkpoint: the first validation of a resumed run has those since.

    Args:
        batches: number of batches. Default 32, that is 2,048 values per channel or more at 64 samples: a mean to 2 % of
            a standard deviation; the running average with momentum .1 has the weight of some 19.
        when: ``"validation"`` (default): before every validation, so that the metric that picks a checkpoint, and the
            checkpoint, are of the new statistics; and at the end, if training went on after the last one.
            ``"end"``: once, at the end of training; checkpoints that were written before (``ModelCheckpoint`` writes
            the last epoch's before that) do not have them, ``trainer.save_checkpoint`` after fit does.
        data: ``"recent"`` (default): the last batches trained on. ``"loader"``: a fresh pass over the beginning of the
            training loader, which may be longer than memory is large; for ``when="end"`` alone, as a loader in use
            cannot be begun anew. Its batches are augmented and shuffled as in training; a
            generator that a sampler has of its own moves on.

    Raises:
        ValueError: for an argument outside of what is said above.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[RecalibrateBatchNorm(batches=16)], logger=False, enable_checkpointing=False)

    Source: Li et al. 2019, Understanding the Disharmony between Dropout and Batch Normalization, section 5.1; Wu and
        Johnson 2021, Rethinking "Batch" in BatchNorm, section 3 (PreciseBN).
    """

    def __init__(self, batches: int = 32, *, when: When = "validation", data: Data = "recent") -> None:
        super().__init__()
        if type(batches) is not int or batches < 1:
            raise ValueError(f"`batches` must be a whole number of at least 1, got {batches!r}.")
        if when not in get_args(When):
            raise ValueError(f"`when` must be one of {get_args(When)}, got {when!r}.")
        if data not in get_args(Data):
            raise ValueError(f"`data` must be one of {get_args(Data)}, got {data!r}.")
        if data == "loader" and when != "end":
            raise ValueError(f"`data` must be 'recent' with when={when!r}: the loader is in use then, got {data!r}.")
        self.batches, self.when, self.data = batches, when, data
        self._held: Held = deque(maxlen=batches)
        self._begin()

    def _begin(self) -> None:
        self._held.clear()
        self._norms: list[str] | None = None
        self._frozen: frozenset[str] = frozenset()
        self._is_stale = self._gave_up = False
        self._done = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit starts with no batches."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch, and see which batch norms are frozen."""
        if self._norms is None:
            self._norms = [*tracking_batch_norms(pl_module)]
        if not self._norms or self._gave_up or batch is None:
            return
        self._is_stale = True
        if self.data == "recent":
            self._held.append((batch, batch_idx))
        self._frozen = frozenset(name for name in self._norms if not pl_module.get_submodule(name).training)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before a validation, if asked for; not the sanity check, which comes before any batch."""
        if self.when == "validation":
            self._recalibrate(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """For the last time, and say so."""
        self._recalibrate(trainer, pl_module)
        norms = len(set(self._norms or ()) - self._frozen)
        journal = Desk.of(trainer).journal
        if self._done:
            times = "once" if self._done == 1 else f"{self._done} times"
            journal.note(f"RecalibrateBatchNorm took the statistics of {norms} batch norm(s) anew, {times}")
        elif not norms:
            journal.note("RecalibrateBatchNorm found no batch norm that trains and keeps running statistics")
        self._held.clear()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the batches."""
        self._begin()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self._begin()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": deque(maxlen=self.batches)}

    def _recalibrate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = [name for name in self._norms or () if name not in self._frozen]
        if not names or not self._is_stale or self._gave_up:
            return
        why = ""
        statistics = None
        try:
            held = self._held if self.data == "recent" else fresh_batches(trainer, self.batches)
            statistics = estimate_statistics(trainer, pl_module, names, held)
        except CannotReplay as limit:
            why = str(limit)
        # One rank that cannot, and the others would have statistics of their own.
        if not trainer.strategy.reduce_boolean_decision(statistics is not None, all=True):
            self._gave_up = True
            Desk.of(trainer).journal.note(f"RecalibrateBatchNorm left the statistics as they were: {why or 'a rank'}")
            return
        write_statistics(trainer, pl_module, statistics or {})
        self._is_stale = False
        self._done += 1
