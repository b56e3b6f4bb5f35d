"""How far single updates move the weights, for their size: the last few of each weight."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Any

__all__ = ["UpdateRatios", "WeightUpdate"]


@dataclasses.dataclass(frozen=True)
class WeightUpdate:
    """One update of one weight.

    Attributes:
        ratio: norm of the change over norm of the weight before; infinite of a weight of zeros that moved.
        group: the optimizer's group that the weight is in, ``"AdamW group 0"``.
        relative_lr: the group's learning rate over its highest so far (or the one that its schedule starts from); 1
            where it is not known.
    """

    ratio: float
    group: str = ""
    relative_lr: float = 1.0


class UpdateRatios:
    """The last ``size`` updates of each weight, and their medians.

    Example:
        >>> ratios = UpdateRatios(3)
        >>> for ratio in (0.5, 1e-3, 2e-3, 3e-3):
        ...     ratios.add({"0.weight": WeightUpdate(ratio)})
        >>> ratios.medians()
        {'0.weight': 0.002}
    """

    def __init__(self, size: int = 5) -> None:
        self.size = size
        self._ratios: dict[str, list[float]] = {}

    def add(self, updates: Mapping[str, WeightUpdate]) -> None:
        """Take the updates of one step; what is not finite is no reading."""
        for name, update in updates.items():
            if math.isfinite(update.ratio):
                self._ratios[name] = [*self._ratios.get(name, []), update.ratio][-self.size :]

    def medians(self) -> dict[str, float]:
        """The median of each weight that has ``size`` readings."""
        return {name: statistics.median(own) for name, own in self._ratios.items() if len(own) == self.size}

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {name: list(own) for name, own in self._ratios.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._ratios = {name: list(own) for name, own in state.items()}
