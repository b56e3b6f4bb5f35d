"""LT704: float16 has no room for the gradients, whatever the loss is multiplied by."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT704", "LossScaleJudge"]

LT704 = register(
    Rule(
        code="LT704",
        name="loss-scale-collapse",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "A GradScaler halves its scale and leaves the update out whenever a gradient overflows float16 (65504). A "
            "healthy run does that some ten times in the beginning and then once in 2000 updates. A scale below 1 "
            "shrinks gradients that float16 holds only down to 6e-8: small ones become 0; and a run that leaves out "
            "one update in twenty overflows in its forward pass or explodes."
        ),
        remedy=(
            '`Trainer(precision="bf16-mixed")`, which has float32\'s range and needs no scaler; else run the operation '
            "that overflows in float32, or clip and lower the learning rate."
        ),
        source="Micikevicius et al. 2018, Mixed precision training; torch.amp.GradScaler's defaults (65536, 2000)",
    )
)

SMALLEST_SCALE = 1.0
HIGHEST_RATE = 0.05

_SEARCH = 100
"""Updates in which the scaler looks for its scale: from 2**16 it reaches 1 in sixteen skips, from 2**24 in 24."""

_WINDOW = 200
"""Updates over which the share of skips is taken; a share of 5 % is ten skips."""


class LossScaleJudge:
    """Judges the updates that a GradScaler leaves out, and its scale, as plain numbers.

    Skips of the first hundred updates are the scaler's search for its scale and do not count as a share. Nor does the
    skip that follows each growth of the scale: one in ``growth_interval`` (2000 by default) updates is added to the
    threshold.

    Args:
        growth_interval: of the GradScaler, updates without a skip after which it doubles its scale.

    Example:
        >>> judge = LossScaleJudge()
        >>> judge.count(skipped=True)
        >>> judge.verdict(32768.0)
        >>> judge.verdict(0.5).message
        'the loss scale fell to 0.5 < 1'
    """

    def __init__(self, growth_interval: int = 2000) -> None:
        self.growth_interval = max(1, growth_interval)
        self._updates = 0
        self._skips: deque[int] = deque()

    def count(self, *, skipped: bool) -> None:
        """An update was due, and left out by the scaler or not."""
        self._updates += 1
        if skipped:
            self._skips.append(self._updates)
        while self._skips and self._skips[0] <= self._updates - _WINDOW:
            self._skips.popleft()

    def verdict(self, scale: float | None) -> Finding | None:
        """LT704 if the scale, or the share of skips, is out of bounds now.

        Args:
            scale: of the scaler after the last update; ``None`` or NaN where it is not known.
        """
        evidence: dict[str, float | int | str] = {"updates": self._updates}
        if scale is not None and 0 <= scale < SMALLEST_SCALE:
            evidence |= {"scale": scale, "threshold": SMALLEST_SCALE}
            return LT704.finding(f"the loss scale fell to {scale:.3g} < 1", where="GradScaler", evidence=evidence)
        skipped = sum(update > _SEARCH for update in self._skips)
        allowed = (HIGHEST_RATE + 1 / self.growth_interval) * _WINDOW
        if self._updates < _SEARCH + _WINDOW or skipped <= allowed:
            return None
        evidence |= {"skipped": skipped, "window": _WINDOW, "threshold": HIGHEST_RATE}
        if scale is not None:
            evidence["scale"] = scale
        return LT704.finding(
            f"the GradScaler left out {skipped} of the last {_WINDOW} updates ({skipped / _WINDOW:.0%} > "
            f"{HIGHEST_RATE:.0%})",
            where="GradScaler",
            evidence=evidence,
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {"updates": self._updates, "skips": list(self._skips)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._updates, self._skips = state["updates"], deque(state["skips"])
