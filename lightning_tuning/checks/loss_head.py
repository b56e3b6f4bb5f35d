"""Looks at what stands between the last weights and the loss (LT314-LT319, LT410, LT412)."""

from __future__ import annotations

from lightning_tuning.runtime import Check

__all__ = ["LossHeadCheck"]


class LossHeadCheck(Check):
    """Looks at what stands between the last weights and the loss (LT314-LT319, LT410, LT412)."""
