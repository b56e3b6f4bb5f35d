"""Numbers of findings, in words and by severity."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_tuning.findings import Finding, Severity

__all__ = ["counted", "counts", "plural"]


def counts(findings: Sequence[Finding]) -> dict[Severity, int]:
    """How many there are of each severity, the worst first; zeros too.

    Example:
        >>> {str(severity): count for severity, count in counts([]).items()}
        {'error': 0, 'warning': 0, 'info': 0}
    """
    return {severity: sum(f.severity is severity for f in findings) for severity in sorted(Severity, reverse=True)}


def counted(findings: Sequence[Finding]) -> str:
    """``"1 error, 2 warnings, 5 infos"`` or ``"no findings"``.

    Example:
        >>> counted([Finding("LT999", "too-much", Severity.WARNING, "9 > 3")] * 2)
        '2 warnings'
    """
    words = [plural(count, str(severity)) for severity, count in counts(findings).items() if count]
    return ", ".join(words) or "no findings"


def plural(count: int, noun: str) -> str:
    """``count`` of what ``noun`` names.

    Example:
        >>> plural(1, "error"), plural(2, "error")
        ('1 error', '2 errors')
    """
    return f"{count} {noun}" + ("" if count == 1 else "s")
