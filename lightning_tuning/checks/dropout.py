"""Looks at where dropout stands, and how strong it is (LT303-LT306)."""

from __future__ import annotations

from lightning_tuning.runtime import Check

__all__ = ["DropoutCheck"]


class DropoutCheck(Check):
    """Looks at where dropout stands, and how strong it is (LT303-LT306)."""
