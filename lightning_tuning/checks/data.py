"""Looks at the first batches: what goes into the model (LT101, LT102, LT103, LT106, LT113)."""

from __future__ import annotations

from lightning_tuning.runtime import Check

__all__ = ["DataCheck"]


class DataCheck(Check):
    """Looks at the first batches: what goes into the model (LT101, LT102, LT103, LT106, LT113)."""
