"""A warm-up before the scheduler that a module has."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_tuning.functional.schedule_lr import warm_up_before, warm_up_ticks
from lightning_tuning.treatments._configure import scheduler_in

__all__ = ["warm_up_entry"]


def warm_up_entry(
    known: list[Any],
    *,
    ticks: int | None,
    is_manual: bool,
    warmup: float,
    warmup_start: float | None,
    interval: str,
    frequency: int,
) -> dict[str, Any] | None:
    """The module's entry with a warm-up before it; ``None`` if a warm-up beside it does.

    A plateau scheduler multiplies the rate that it finds, as a warm-up does: the two go side by side, each at its own
    times.

    Raises:
        MisconfigurationException: where one clock does not do for both, or torch cannot put them in sequence.
    """
    if len(known) > 1:
        kinds = ", ".join(type(scheduler_in(entry)).__name__ for entry in known)
        raise MisconfigurationException(
            f"ScheduleLR(when_scheduled='chain'): the module has several schedulers for one optimizer ({kinds}), and a "
            "warm-up can come before one only. Put them into one in the module."
        )
    scheduler = scheduler_in(known[0])
    if isinstance(scheduler, ReduceLROnPlateau):
        return None
    entry = known[0] if isinstance(known[0], dict) else {"scheduler": scheduler}
    own = entry.get("interval", "epoch"), entry.get("frequency", 1)
    if not is_manual and own != (interval, frequency):
        raise MisconfigurationException(
            f"ScheduleLR(when_scheduled='chain'): the module steps {type(scheduler).__name__} with "
            f"interval={own[0]!r}, frequency={own[1]}, and ScheduleLR counts with {interval=}, {frequency=}: a "
            "sequence has one clock. "
            "Give ScheduleLR the module's `interval` and `frequency`; `warmup` counts in them."
        )
    try:
        return {**entry, "scheduler": warm_up_before(scheduler, warm_up_ticks(warmup, ticks), warmup_start)}
    except ValueError as error:
        raise MisconfigurationException(f"ScheduleLR(when_scheduled='chain'): {error}") from error
