"""What a guard remembers of a run, from checkpoint to checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.findings import Finding
from lightning_tuning.guards._past import pace_of, weight_norm
from lightning_tuning.rules.non_finite import Pace

__all__ = ["Memory"]

_NORMS = 10
"""Gradient norms remembered, to tell an explosion from a bolt out of the blue."""


@dataclasses.dataclass
class Memory:
    """Counters and the recent past.

    Attributes:
        replays_left: bad batches that may still be replayed.
        updates: that were due in this run, dropped or not.
        skipped: updates dropped.
        amp_skips: updates that the GradScaler left out.
        in_a_row: updates dropped since the last that was not.
        norms: gradient norms of the last healthy updates, oldest first.
        told: the last finding of each code.
        weights: norm of the weights when they were last looked at, and ``updates`` then. Not kept in checkpoints.
        bad_window: a batch of the accumulation window under way was bad. Not kept in checkpoints, nor are gradients.
    """

    replays_left: int
    updates: int = 0
    skipped: int = 0
    amp_skips: int = 0
    in_a_row: int = 0
    norms: deque[float] = dataclasses.field(default_factory=lambda: deque(maxlen=_NORMS))
    told: dict[str, Finding] = dataclasses.field(default_factory=dict)
    weights: tuple[float, int] = (math.nan, 0)
    bad_window: bool = False

    def count(self, *, dropped: bool) -> None:
        """An update was due, and dropped or not."""
        self.bad_window = False
        self.updates += 1
        self.skipped += dropped
        self.in_a_row = self.in_a_row + 1 if dropped else 0

    def look_at_weights(self, pl_module: LightningModule) -> None:
        """Remember their norm; waits for the device."""
        self.weights = weight_norm(pl_module), self.updates

    def pace(self, trainer: Trainer, pl_module: LightningModule) -> Pace | None:
        """How far the last updates moved the weights."""
        before, then = self.weights
        return pace_of(trainer, pl_module, tuple(self.norms), before=before, updates=self.updates - then)

    def notes(self) -> list[str]:
        """What was done, for the closing summary."""
        counts = (self.skipped, "dropped"), (self.amp_skips, "saw the GradScaler leave out")
        return [f"NanLossGuard {what} {count} of {self.updates} updates" for count, what in counts if count]

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "replays_left": self.replays_left,
            "updates": self.updates,
            "skipped": self.skipped,
            "amp_skips": self.amp_skips,
            "in_a_row": self.in_a_row,
            "norms": list(self.norms),
            "told": [finding.to_dict() for finding in self.told.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with it; a guard that may not replay now does not, whatever an earlier one had left."""
        self.replays_left = min(self.replays_left, state["replays_left"])
        self.updates, self.skipped, self.amp_skips = state["updates"], state["skipped"], state["amp_skips"]
        self.in_a_row = state["in_a_row"]
        self.norms = deque(state["norms"], maxlen=_NORMS)
        self.told = {finding.code: finding for finding in map(Finding.from_dict, state["told"])}
