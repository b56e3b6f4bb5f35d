"""What was measured of one optimizer's step, before it is sent on its way."""

from __future__ import annotations

import math
from typing import NamedTuple

from lightning_tuning.measure.gradients import GradientNorms

__all__ = ["Measured", "is_finite"]


class Measured(NamedTuple):
    """What was measured for one optimizer and not yet sent; without an optimizer, a batch that took no step."""

    step: int
    epoch: int
    optimizer: int | None = None
    norms: GradientNorms | None = None


def is_finite(loss: float | None, norms: GradientNorms | None) -> bool:
    """Whether a loss and norms that lie on the host are; what does not, counts as 0.

    Example:
        >>> is_finite(1.0, None), is_finite(float("nan"), None)
        (True, False)
    """
    total = 0.0 if norms is None or norms.landed is None else norms.total
    return math.isfinite((loss or 0.0) + total)
