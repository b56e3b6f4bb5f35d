"""How often AdaptiveClipGuard clipped, counted where the gradients lie, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_tuning.guards._clip_thresholds import Threshold

__all__ = ["Tally", "clip_note"]


class Tally:
    """Updates (of ``"agc"``: units) that were clipped, of all there were; never read in a step."""

    def __init__(self, device: torch.device) -> None:
        self.clipped = torch.zeros((), dtype=torch.int64, device=device)
        self.all = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, clipped: Tensor, of_all: Tensor) -> None:
        """One more update."""
        self.clipped += clipped.to(self.clipped.device, non_blocking=True)
        self.all += of_all.to(self.all.device, non_blocking=True)

    def share(self) -> Tensor:
        """0 to 1; 0 where there was none."""
        return self.clipped / self.all.clamp(min=1)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"clipped": int(self.clipped), "all": int(self.all)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with them."""
        self.clipped.fill_(state["clipped"])
        self.all.fill_(state["all"])


def clip_note(
    method: str, percentile: float, tallies: Mapping[int, Tally], thresholds: Mapping[int, Threshold]
) -> str | None:
    """The line of the closing summary; ``None`` for a run without an update. Reads from the device."""
    told: list[str] = []
    for index, tally in sorted(tallies.items()):
        clipped, seen = int(tally.clipped), int(tally.all)
        if not seen:
            continue
        several = f"optimizer {index}: " if len(tallies) > 1 else ""
        of_what = "gradients of units" if method == "agc" else "updates"
        line = f"{several}{clipped} of {seen} {of_what} ({_percent(clipped / seen)})"
        if index in thresholds and method != "norm":
            line += _bound(method, percentile, float(thresholds[index].now()), alone=not several)
        told.append(line)
    return f"AdaptiveClipGuard clipped {'; '.join(told)}" if told else None


def _bound(method: str, percentile: float, threshold: float, *, alone: bool) -> str:
    if not math.isfinite(threshold):
        return "; it was warming up until the end"
    by = f"percentile {percentile:g} of the norms" if method == "percentile" else "the z-score of the norms"
    constant = f"; as a constant: Trainer(gradient_clip_val={threshold:.2g})" if alone else ""
    return f", at the end to {threshold:.3g} by {by}{constant}"


def _percent(share: float) -> str:
    return "under 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
