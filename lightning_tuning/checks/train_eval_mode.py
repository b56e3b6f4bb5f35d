"""Looks at who trains in evaluation mode, and who evaluates in training mode (LT320, LT321)."""

from __future__ import annotations

from lightning_tuning.runtime import Check

__all__ = ["TrainEvalModeCheck"]


class TrainEvalModeCheck(Check):
    """Looks at who trains in evaluation mode, and who evaluates in training mode (LT320, LT321)."""
