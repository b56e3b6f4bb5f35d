"""LT604: single updates that change a weight by a tenth of itself and more."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._update_ratios import UpdateRatios, WeightUpdate

__all__ = ["LT604", "LargeUpdates"]

LT604 = register(
    Rule(
        code="LT604",
        name="update-too-large",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "An update of a tenth of the weight replaces within a few steps what hundreds had learned; usual are "
            "1e-4 to 1e-2, with 1e-3 as the rule of thumb."
        ),
        remedy="lower the learning rate by the factor that the ratio is above 1e-2, or warm it up.",
        source=(
            "Karpathy, CS231n, 'Ratio of weights:updates' (about 1e-3); Ben Braiek & Khomh 2023, TheDeepChecker "
            "(1e-4 to 1e-1)"
        ),
    )
)

_USUAL = 1e-2


class LargeUpdates:
    """Judges the updates of now and then: the median of a weight's last five, after the first ``settle`` steps.

    The first steps do not count, in which a rate warms up and weights that start at 0 grow for their size by any
    factor. A median, since a single large update is a spike, of which other rules speak.

    Args:
        threshold: of the ratio.
        settle: optimizer steps that are not counted.

    Example:
        >>> judge = LargeUpdates()
        >>> found = [judge.judge(step, {"0.weight": WeightUpdate(0.4)}) for step in range(50, 400, 50)]
        >>> found[:-2], found[-1].where, found[-1].evidence["ratio"]
        ([None, None, None, None, None], '0.weight', 0.4)
    """

    PERSISTENCE = 3

    def __init__(self, threshold: float = 1e-1, settle: int = 100) -> None:
        self.threshold, self.settle = threshold, settle
        self._ratios = UpdateRatios()

    def judge(self, step: int, updates: Mapping[str, WeightUpdate]) -> Finding | None:
        """Take the updates of one step, by the names of the weights."""
        if step <= self.settle:
            return None
        self._ratios.add(updates)
        large = {name: ratio for name, ratio in self._ratios.medians().items() if ratio > self.threshold}
        if not large:
            return None
        where = max(large, key=large.__getitem__)
        more = f", and {len(large) - 1} more weights likewise" if len(large) > 1 else ""
        finding = LT604.finding(
            f"an update changes it by {large[where]:.2g} > {self.threshold:g} of its norm{more}",
            where=where,
            evidence={"ratio": large[where], "threshold": self.threshold, "weights": len(large)},
            remedy=f"divide the learning rate by {large[where] / _USUAL:.2g}, which makes it 1e-2; or warm it up.",
        )
        return dataclasses.replace(finding, count=self.PERSISTENCE)

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return self._ratios.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._ratios.load_state_dict(state)
