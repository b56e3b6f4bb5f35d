"""What a journal expects of those to whom it tells its findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lightning_tuning.findings.finding import Finding

__all__ = ["Reporter"]


class Reporter(Protocol):
    """Somebody to whom findings are told; see ``lightning_tuning.reporters``."""

    def finding(self, finding: Finding) -> bool:
        """Tell a new (or worsened) finding as it comes; True if a person can see it now."""

    def close(self, findings: Sequence[Finding], notes: Sequence[str]) -> None:
        """The run is over: everything found, worst first, and what guards and treatments did."""
