"""Looks for trained modules that no gradient reaches (LT414)."""

from __future__ import annotations

from lightning_tuning.runtime import Check

__all__ = ["GradientFlowCheck"]


class GradientFlowCheck(Check):
    """Looks for trained modules that no gradient reaches (LT414)."""
