"""Looks at whether the run can be repeated and its best model kept (LT901, LT902, LT904)."""

from __future__ import annotations

from lightning_tuning.runtime import Check

__all__ = ["RunCheck"]


class RunCheck(Check):
    """Looks at whether the run can be repeated and its best model kept (LT901, LT902, LT904)."""
