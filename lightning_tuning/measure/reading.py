"""What was measured of one step, as plain numbers."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Reading"]


class Reading(NamedTuple):
    """The landed numbers of one optimizer step, or of one batch that ended without a step.

    A tuple, since one is made in each step: a frozen dataclass takes four times as long.

    Attributes:
        step: ``trainer.global_step`` before the optimizer stepped.
        epoch: ``trainer.current_epoch``.
        loss: the training loss of the batch, undivided by gradient accumulation; ``None`` where the module returned
            none. Of several readings of one batch only the last carries it.
        optimizer: index of the optimizer; ``None`` for a batch without a measured step.
        grad_norm: global L2 norm, before clipping; ``None`` likewise.
        grad_norms: one L2 norm per name.
        names: see :class:`GradientNorms`.
        clip: the norm to which a callback of ours clipped this step, see :meth:`Meter.clip_at`; ``None`` if none did.
    """

    step: int
    epoch: int
    loss: float | None = None
    optimizer: int | None = None
    grad_norm: float | None = None
    grad_norms: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    clip: float | None = None
