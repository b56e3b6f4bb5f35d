"""Which findings may explain that a net does not learn what it should, the likeliest first."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_tuning.findings import Finding

__all__ = ["suspects"]

_LIKELY = ("LT7", "LT1", "LT40", "LT2", "LT32", "LT31", "LT4", "LT3", "LT5")
"""What keeps a net from fitting one batch, the likeliest first: numbers, data, optimizer, weights, modes, structure."""


def suspects(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that may explain why a trial failed, the likeliest first: by severity, then by kind.

    Example:
        >>> from lightning_tuning.findings import Severity
        >>> found = [Finding(code, "x", Severity.WARNING, "y") for code in ("LT501", "LT401", "LT101")]
        >>> [finding.code for finding in suspects(found)]
        ['LT101', 'LT401', 'LT501']
    """

    def rank(finding: Finding) -> tuple[int, int, str]:
        kinds = (place for place, prefix in enumerate(_LIKELY) if finding.code.startswith(prefix))
        return -finding.severity, next(kinds, len(_LIKELY)), finding.code

    return sorted(findings, key=rank)
