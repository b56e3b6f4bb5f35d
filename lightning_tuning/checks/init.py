"""Looks at fresh weights and at the signal that they let through (LT201-LT209)."""

from __future__ import annotations

from lightning_tuning.runtime import Check

__all__ = ["InitCheck"]


class InitCheck(Check):
    """Looks at fresh weights and at the signal that they let through (LT201-LT209)."""
