"""Looks at what batch norms are fed, and how they keep their statistics (LT307-LT313, LT322, LT323)."""

from __future__ import annotations

from lightning_tuning.runtime import Check

__all__ = ["BatchNormCheck"]


class BatchNormCheck(Check):
    """Looks at what batch norms are fed, and how they keep their statistics (LT307-LT313, LT322, LT323)."""
