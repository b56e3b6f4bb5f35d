"""What a keeper of plateau schedulers is given: whom to keep, and who judges them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_tuning.findings import Finding

__all__ = ["Judge", "Watch"]


class Judge(Protocol):
    """What is wrong with a plateau scheduler, from plain facts; ``lightning_tuning.rules`` has it."""

    def __call__(
        self,
        owner: str,
        monitor: str,
        *,
        mode: str,
        patience: int,
        threshold: float,
        threshold_mode: str,
        stoppers: Sequence[tuple[str, str, int, int]],
        readings: Sequence[float],
        is_learning: bool,
    ) -> Iterable[Finding]:
        """The findings."""


@dataclasses.dataclass(frozen=True)
class Watch:
    """What a keeper keeps: schedulers that read one metric together.

    Attributes:
        schedulers: one per optimizer; none = nothing to keep.
        monitor: name of the metric.
        frequency: epochs per reading; ``None`` = every validation is one, and the keeper itself steps.
    """

    schedulers: tuple[ReduceLROnPlateau, ...] = ()
    monitor: str = ""
    frequency: int | None = None
