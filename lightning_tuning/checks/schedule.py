"""Runs the learning rate schedule on paper before it is run (LT501-LT507, LT510, LT512, LT513)."""

from __future__ import annotations

from lightning_tuning.runtime import Check

__all__ = ["ScheduleCheck"]


class ScheduleCheck(Check):
    """Runs the learning rate schedule on paper before it is run (LT501-LT507, LT510, LT512, LT513)."""
