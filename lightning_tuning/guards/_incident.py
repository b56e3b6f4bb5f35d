"""One bad step as a guard knows it, and what a guard may do about it besides deciding on the update."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tuning.findings import Finding
from lightning_tuning.rules.non_finite import BadStep
from lightning_tuning.trace import RngState

__all__ = ["Incident", "Response"]


@dataclasses.dataclass(frozen=True)
class Incident:
    """A bad step, before anything of it is undone.

    Attributes:
        finding: what is said of it; the same on every rank.
        step: what is known of it; the same on every rank, ``step.rank`` says whose batch was bad.
        batch: this rank's batch, as ``training_step`` got it.
        batch_idx: its index in the epoch.
        rng: this rank's random number generators at the batch's start; ``None`` where no replay was left.
        buffers: this rank's buffers at the batch's start, by the names of ``named_buffers``.
        action: what the guard will do: ``"raise"``, ``"skip"``, ``"stop"`` or ``"rollback"``.
    """

    finding: Finding
    step: BadStep
    batch: Any
    batch_idx: int
    rng: RngState | None
    buffers: dict[str, Tensor]
    action: str


class Response:
    """Something that a guard does in an incident; every method has an empty default."""

    def prepare(self, trainer: Trainer) -> None:
        """The fit starts: state was restored (under FSDP and DeepSpeed it will be), no training loader set up yet."""

    @property
    def wants_rng(self) -> bool:
        """Whether an incident must have the random number generators, also where no replay is left."""
        return False

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training starts."""

    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The weights were looked at and found sound: before the first step, and at each epoch's end."""

    def amend(self, trainer: Trainer, pl_module: LightningModule, incident: Incident) -> Finding:
        """What is to be said of ``incident``, the same on all ranks; called like :meth:`answer`, before it."""
        return incident.finding

    def answer(self, trainer: Trainer, pl_module: LightningModule, incident: Incident) -> str:
        """Act on ``incident``; called on every rank, with the weights of before the update and the batch not undone.

        Returns:
            Half a sentence to be added to the finding; empty if there is nothing to say.
        """
        return ""

    def notes(self) -> list[str]:
        """Lines for the closing summary."""
        return []

    def end(self, trainer: Trainer) -> None:
        """The run is over, in good order or by an exception."""

    def state_dict(self) -> dict[str, Any]:
        """What must survive in a checkpoint, of plain types."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with it."""
