"""Looks at what the loss compares with (LT104, LT105, LT107, LT109)."""

from __future__ import annotations

from lightning_tuning.runtime import Check

__all__ = ["TargetCheck"]


class TargetCheck(Check):
    """Looks at what the loss compares with (LT104, LT105, LT107, LT109)."""
