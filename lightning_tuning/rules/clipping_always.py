"""LT606: gradients that are clipped at most of the steps."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Any

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT606", "ClippingJudge"]

LT606 = register(
    Rule(
        code="LT606",
        name="clipping-always",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "Clipping is for the few steps whose gradient is far larger than usual. Where most are clipped, every "
            "update has the same length, whatever the gradient: that is a lower learning rate in disguise, which no "
            "schedule knows of. (Adam divides by the gradients' own size, so that it only evens the batches out there.)"
        ),
        remedy="clip at the 90th percentile of the gradient norms, and set the learning rate itself lower.",
        source="Google tuning playbook (clip at the 90th percentile); Zhang et al. 2020, Why gradient clipping works",
    )
)

_LOST = 0.99
"""Norm after over norm before, below which a step counts as clipped; above is rounding, or a few elements by value."""
_SAME = 1e-4
"""Relative; what ``clip_grad_norm_`` leaves is its bound to six digits."""


class ClippingJudge:
    """Judges norms before and after clipping: more than half of the last ``window`` clipped make a finding.

    Where only the norms after are known (the module clips before anybody can look) clipped ones are told by effect:
    they all have the same norm, of two digits as people choose them, and none has a larger one.

    Args:
        window: readings.
        share: of them that fires.

    Example:
        >>> judge = ClippingJudge(window=4)
        >>> for before in (4.0, 4.0, 5.0, 0.5):
        ...     judge.take(before, min(before, 1.0))
        >>> judge.share, judge.threshold
        (0.75, 1.0)
        >>> judge.finding(where="SGD", lr=0.1, adaptive=False).evidence["equivalent_lr"]
        0.025
    """

    PERSISTENCE = 3

    def __init__(self, window: int = 40, share: float = 0.5) -> None:
        self.window, self.least = window, share
        self._pairs: list[tuple[float, float]] = []

    def take(self, before: float, after: float | None) -> None:
        """A step's norms; ``after`` is ``None`` where nobody is known to clip behind the look that measured it."""
        if not math.isfinite(before) or before <= 0 or (after is not None and not math.isfinite(after)):
            return
        self._pairs = [*self._pairs, (before, before if after is None else after)][-self.window :]

    @property
    def share(self) -> float | None:
        """The clipped part of the window; ``None`` before it is full."""
        if len(self._pairs) < self.window:
            return None
        clipped = sum(after < _LOST * before for before, after in self._pairs)
        return (clipped or self._at_the_bound) / self.window

    @property
    def threshold(self) -> float:
        """The norm of what was clipped; the median, where it varies. NaN where nothing was."""
        clipped = [after for before, after in self._pairs if after < _LOST * before]
        if clipped:
            return float(f"{statistics.median(clipped):.6g}")
        return _rounded(max(after for _, after in self._pairs)) if self._at_the_bound else math.nan

    @property
    def _at_the_bound(self) -> int:
        """How many of the norms are one and the same largest one, of two digits; 0 where that could be chance."""
        largest = max((after for _, after in self._pairs), default=0.0)
        count = sum(after >= (1 - _SAME) * largest for _, after in self._pairs)
        return count if count > 2 and abs(_rounded(largest) - largest) <= _SAME * largest else 0

    def finding(self, *, where: str, lr: float | None, adaptive: bool) -> Finding | None:
        """LT606 where the share is above its bound; an info of an optimizer that divides by the gradients' own size.

        Args:
            where: the optimizer.
            lr: its learning rate now, if known.
            adaptive: see :func:`~lightning_tuning.rules.gradient_spread.is_adaptive`.
        """
        share, threshold = self.share, self.threshold
        if share is None or not share > self.least:
            return None
        before = [norm for norm, _ in self._pairs]
        is_seen = any(after < _LOST * norm for norm, after in self._pairs)
        evidence: dict[str, float | int | str] = {"share": share, "threshold": threshold, "readings": self.window}
        remedy = "log the norms before clipping, and clip at their 90th percentile, with a lower learning rate."
        if is_seen:
            clip, median = statistics.quantiles(before, n=10)[-1], statistics.median(before)
            evidence |= {"suggested_clip": clip, "median": median}
            remedy = f"clip the norm at {clip:.2g} (`gradient_clip_val`), the 90th percentile of what there was"
            if lr is not None and not adaptive:
                evidence["equivalent_lr"] = lr * threshold / median
                remedy += f", with `lr={lr * threshold / median:.2g}`, which has the effect of now"
            remedy += "."
        finding = LT606.finding(
            f"{share:.0%} of the last updates were clipped, to a gradient norm of {threshold:.3g}"
            + (f", from a median of {statistics.median(before):.3g}" if is_seen else ""),
            where=where,
            severity=Severity.INFO if adaptive else None,
            evidence=evidence,
            remedy=remedy,
        )
        return dataclasses.replace(finding, count=self.PERSISTENCE)

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {"pairs": [list(pair) for pair in self._pairs]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._pairs = [(before, after) for before, after in state["pairs"]]


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")
