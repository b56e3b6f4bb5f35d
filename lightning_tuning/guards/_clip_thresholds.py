"""The norm from which on AdaptiveClipGuard clips: what each method remembers, and what it comes to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_tuning.functional import (
    clip_coefficient,
    percentile_threshold,
    push_norm_,
    updated_norm_statistics,
    zscore_threshold,
)

__all__ = ["Fixed", "Percentile", "Threshold", "ZScore"]


class Threshold(ABC):
    """Learns from the norms of one optimizer; every tensor of it lies where they do, and is never read.

    Args:
        device: of the norms.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    @abstractmethod
    def now(self) -> Tensor:
        """The threshold for the coming norm, 0-d; inf as long as it is not known."""

    @abstractmethod
    def learn(self, norm: Tensor) -> None:
        """Take in a norm, as it was before clipping."""

    def state_dict(self) -> dict[str, Any]:
        """On the CPU: a copy from the device, at checkpoints only."""
        return {"count": int(self.count)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self.count.fill_(state["count"])


class Fixed(Threshold):
    """One number, for good."""

    def __init__(self, device: torch.device, threshold: float) -> None:
        super().__init__(device)
        self._threshold = torch.full((), threshold, device=device)

    def now(self) -> Tensor:
        """The number."""
        return self._threshold

    def learn(self, norm: Tensor) -> None:
        """Nothing."""


class Percentile(Threshold):
    """A percentile of the last norms."""

    def __init__(self, device: torch.device, percentile: float, window: int, warmup: int) -> None:
        super().__init__(device)
        self._percentile, self._warmup = percentile, warmup
        self._history = torch.full((window,), torch.nan, device=device)
        self._unknown = torch.full((), torch.inf, device=device)

    def now(self) -> Tensor:
        """The percentile, after the warm-up."""
        return torch.where(
            self.count < self._warmup, self._unknown, percentile_threshold(self._history, self._percentile)
        )

    def learn(self, norm: Tensor) -> None:
        """Push it over the oldest."""
        push_norm_(self._history, self.count, norm)

    def state_dict(self) -> dict[str, Any]:
        """With the norms, the oldest first."""
        count, window = int(self.count), len(self._history)
        known = self._history[:count] if count < window else self._history.roll(-(count % window))
        return {"count": count, "history": known.cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take as many of the last norms as the window, which may be another one, holds."""
        window = len(self._history)
        last = state["history"][-window:]
        count = state["count"] if len(last) == window else len(last)
        self._history.fill_(torch.nan)
        places = torch.arange(count - len(last), count) % window
        self._history[places.to(self.device)] = last.to(self._history)
        self.count.fill_(count)


class ZScore(Threshold):
    """Standard deviations above the moving mean."""

    def __init__(self, device: torch.device, z: float, warmup: int) -> None:
        super().__init__(device)
        self._z, self._warmup = z, warmup
        self._mean, self._variance = torch.zeros((), device=device), torch.zeros((), device=device)
        self._unknown = torch.full((), torch.inf, device=device)

    def now(self) -> Tensor:
        """Mean and deviations, after the warm-up."""
        return torch.where(
            self.count < self._warmup, self._unknown, zscore_threshold(self._mean, self._variance, self._z)
        )

    def learn(self, norm: Tensor) -> None:
        """Take it in as it was clipped: a spike must not widen the band that it is judged by (as in ZClip)."""
        clipped = norm * clip_coefficient(norm, self.now())
        self._mean, self._variance, self.count = updated_norm_statistics(
            self._mean, self._variance, self.count, clipped, warmup=self._warmup
        )

    def state_dict(self) -> dict[str, Any]:
        """With mean and variance."""
        return {**super().state_dict(), "mean": float(self._mean), "variance": float(self._variance)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with them."""
        super().load_state_dict(state)
        self._mean.fill_(state["mean"])
        self._variance.fill_(state["variance"])
