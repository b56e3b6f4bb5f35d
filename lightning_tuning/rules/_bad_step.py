"""What is known of a batch whose numbers are not finite."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_tuning.rules._growth import Pace
    from lightning_tuning.trace.nonfinite import Origin

__all__ = ["BadStep"]


@dataclasses.dataclass(frozen=True)
class BadStep:
    """What is known of a batch whose numbers are not finite.

    Attributes:
        losses: every loss that went backward in it, as it was.
        gradients: names of the parameters whose gradient is not finite.
        weights: names of the parameters that are not finite themselves.
        origin: where the first non-finite number came from, if that was found.
        norms: global gradient norms of the last healthy updates, oldest first.
        batch_idx: index of the batch in its epoch.
        step: ``trainer.global_step``.
        rank: whose batch it was; ``None`` if there is only one process.
        blind: why the step was not replayed.
        dataset_indices: of the bad samples in the dataset, in the order of ``origin.samples``, where they are known.
        dataset_doubt: why they may not be just those: ``"if `collate_fn` keeps the order"``.
        pace: how far the last updates moved the weights.
        stale_updates: updates with gradients that were never set back; 0 if they were.
        summed: samples over which the loss is a sum; 0 for a mean, and for what is not known.
    """

    losses: tuple[float, ...] = ()
    gradients: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    origin: Origin | None = None
    norms: tuple[float, ...] = ()
    batch_idx: int = 0
    step: int = 0
    rank: int | None = None
    blind: str = ""
    dataset_indices: tuple[int, ...] = ()
    dataset_doubt: str = ""
    pace: Pace | None = None
    stale_updates: int = 0
    summed: int = 0

    @property
    def bad_loss(self) -> float | None:
        """The first loss that is not finite."""
        return next((loss for loss in self.losses if not math.isfinite(loss)), None)
