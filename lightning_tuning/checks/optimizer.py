"""Looks at what the optimizers hold, and how they are set (LT401-LT409, LT413)."""

from __future__ import annotations

from lightning_tuning.runtime import Check

__all__ = ["OptimizerCheck"]


class OptimizerCheck(Check):
    """Looks at what the optimizers hold, and how they are set (LT401-LT409, LT413)."""
