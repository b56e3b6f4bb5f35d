"""LT905: are the replicas still the same model?"""

from __future__ import annotations

from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.findings import Finding
from lightning_tuning.guards._replicas import are_replicas, differ_anywhere, find_drift, locate_drift
from lightning_tuning.measure import Landing
from lightning_tuning.runtime import TuningCallback

__all__ = ["ReplicaDriftGuard"]

Action = Literal["warn", "raise"]

_LAG = 10
"""Batches between a comparison and its reading: the device has long been there, so nobody waits."""


class ReplicaDriftGuard(TuningCallback):
    """Compares the parameters of all ranks, bit for bit, and names the first that differs and where (LT905).

    Why: DDP sends weights once, at the start; after that replicas stay equal only because every rank makes the same
    update. A rank that skips one on its own, a layer initialized late, parameters unfrozen after DDP was built: the
    loss goes on falling, every gradient is a mean over different models, and only rank 0's model is saved.

    Compared are the trainable parameters, by a 64-bit hash made on the device and one all-gather of a single number:
    before the first step, every ``every_n_steps`` and at the end, until they differ. Buffers are not, for those of
    batch norm differ between two forward passes in every healthy run. With one rank, and where ranks hold pieces
    instead of replicas (FSDP, model parallel, DeepSpeed) or average their models from time to time, nothing is done at
    all. Changes nothing.

    Price: a comparison takes as long as one to two updates of AdamW (measured on a CPU, 235 thousand to 25 million
    parameters): below .4 % of a run at the default; and 24 MiB of scratch memory. Its result is read ten batches later,
    when it has long arrived.

    Args:
        every_n_steps: training batches between two comparisons. Default 500: seldom enough to cost nothing, and drift
            does not heal.
        action: ``"warn"`` (default: machines that round differently give such drift too, and whose run it is decides)
            or ``"raise"``, which ends the run with :class:`TuningError` on every rank.

    Raises:
        ValueError: for an ``every_n_steps`` below 1 or an unknown ``action``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ReplicaDriftGuard(every_n_steps=100)], logger=False, accelerator="cpu")

    Source: Li et al. 2020, PyTorch Distributed, section 3.2.
    """

    def __init__(self, every_n_steps: int = 500, action: Action = "warn") -> None:
        if type(every_n_steps) is not int or every_n_steps < 1:
            raise ValueError(f"`every_n_steps` must be an integer of at least 1, got {every_n_steps!r}.")
        if action not in get_args(Action):
            raise ValueError(f"`action` must be one of {get_args(Action)}, got {action!r}.")
        self.every_n_steps = every_n_steps
        self.action: Action = action
        self._begin()

    def _begin(self) -> None:
        self._watches = False
        self._batches = 0  # not `global_step`: every rank has to come to a comparison, and counts its batches alike
        self._sent: tuple[int, int] | None = None
        self._differs = False
        self._landing = Landing()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit starts with no memory."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._begin()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first comparison, if there is anything to compare."""
        self._watches = are_replicas(trainer)
        if self._watches:
            self._act(trainer, find_drift(trainer, pl_module, "before the first batch"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare, or read what was compared; on every rank in the same batch."""
        if not self._watches:
            return
        self._batches += 1
        if self._sent is not None and self._batches >= self._sent[0] + min(_LAG, self.every_n_steps):
            step, self._sent = self._sent[1], None
            self._landing.collect(wait=True)
            if self._differs:
                self._differs = False
                self._act(trainer, locate_drift(pl_module, f"after step {step}"))
        if self._batches % self.every_n_steps == 0:
            self._sent = self._batches, trainer.global_step
            self._landing.send([differ_anywhere(trainer, pl_module)], self._receive)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last comparison."""
        if self._watches:
            self._act(trainer, find_drift(trainer, pl_module, f"after step {trainer.global_step}, the last"))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_landing": Landing()}  # what is under way belongs to this process

    def _receive(self, numbers: list[list[float]]) -> None:
        self._differs = numbers[0][0] > 0

    def _act(self, trainer: Trainer, finding: Finding | None) -> None:
        """The same on every rank, and rank 0 speaks for all."""
        if finding is None:
            return
        self._watches = False  # it does not heal, and was said
        if self.action == "raise":
            self.fail(trainer, finding)
        if trainer.is_global_zero:
            self.report(trainer, finding)
