"""LT605: updates that leave the weights what they are."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._update_ratios import UpdateRatios, WeightUpdate

__all__ = ["LT605", "SmallUpdates"]

LT605 = register(
    Rule(
        code="LT605",
        name="update-too-small",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "At a hundred thousandth of the weight's size per update the run takes a hundred thousand steps to get "
            "anywhere else; in bfloat16, which keeps three digits, most of them round to nothing."
        ),
        remedy="raise the learning rate: `LearningRateFinder()` of Lightning's tells how far.",
        source="Karpathy, CS231n, 'Ratio of weights:updates'; Ben Braiek & Khomh 2023, TheDeepChecker",
    )
)

_USUAL = 1e-3
_FULL_RATE = 0.5


class SmallUpdates:
    """Judges the updates of now and then: of a group's weights the median, of each of them that of its last five.

    Of a whole parameter group, since the learning rate is that of a group; of a single layer with too small a gradient
    speaks LT602. Updates at less than half of the group's highest learning rate are not counted: a rate warms up, and a
    schedule ends at 0.

    Args:
        threshold: of the ratio.

    Example:
        >>> judge = SmallUpdates()
        >>> found = [judge.judge({"0.weight": WeightUpdate(1e-7, "SGD group 0")}) for _ in range(5)]
        >>> found[:-1], found[-1].where
        ([None, None, None, None], 'SGD group 0')
    """

    PERSISTENCE = 3

    def __init__(self, threshold: float = 1e-5) -> None:
        self.threshold = threshold
        self._ratios = UpdateRatios()

    def judge(self, updates: Mapping[str, WeightUpdate]) -> Finding | None:
        """Take the updates of one step, by the names of the weights; those of looked-up weights are left out."""
        counted = {name: update for name, update in updates.items() if update.relative_lr >= _FULL_RATE}
        self._ratios.add(counted)
        medians = self._ratios.medians()
        groups: dict[str, list[float]] = {}
        for name in counted.keys() & medians.keys():
            groups.setdefault(counted[name].group, []).append(medians[name])
        small = {group: statistics.median(own) for group, own in groups.items()}
        where = min(small, key=small.__getitem__, default="")
        if not small or not small[where] < self.threshold:
            return None
        ratio = small[where]
        by = f"multiply the learning rate by {_USUAL / ratio:.1g}" if ratio else "raise the learning rate"
        finding = LT605.finding(
            f"an update changes a weight by {ratio:.2g} < {self.threshold:g} of its norm (median of "
            f"{len(groups[where])} weights)",
            where=where,
            evidence={"ratio": ratio, "threshold": self.threshold, "weights": len(groups[where])},
            remedy=f"{by}; `LearningRateFinder()` tells how far. Weights in bfloat16 need float32 copies.",
        )
        return dataclasses.replace(finding, count=self.PERSISTENCE)

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return self._ratios.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._ratios.load_state_dict(state)
