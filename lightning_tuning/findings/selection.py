"""Which findings a journal takes: ``select`` and ``ignore``."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from lightning_tuning.findings.catalogue import CATALOGUE
from lightning_tuning.findings.finding import Finding

__all__ = ["Selection"]


class Selection:
    """A finding is taken if one of ``select`` matches it and none of ``ignore``.

    An entry is a code (``"LT601"``), a prefix of codes (``"LT6"``), a rule's name, or a glob on the place
    (``"encoder.*"``).

    Args:
        select: ``None`` (default) takes everything.
        ignore: ``None`` (default) drops nothing.

    Raises:
        ValueError: for a bare string, an empty entry, or a code or prefix of no rule.

    Example:
        >>> from lightning_tuning.findings import Severity
        >>> found = Finding("LT601", "exploding-gradient", Severity.WARNING, "norm", where="encoder.0.weight")
        >>> found in Selection(ignore=["encoder.*"]), found in Selection(select=["exploding-gradient"])
        (False, True)
    """

    def __init__(self, select: Iterable[str] | None = None, ignore: Iterable[str] | None = None) -> None:
        self.select = None if select is None else _patterns("select", select)
        self.ignore = _patterns("ignore", ignore or ())

    def __contains__(self, finding: Finding) -> bool:
        selected = self.select is None or any(_matches(pattern, finding) for pattern in self.select)
        return selected and not any(_matches(pattern, finding) for pattern in self.ignore)


def _patterns(argument: str, patterns: Iterable[str]) -> tuple[str, ...]:
    if isinstance(patterns, str):
        raise ValueError(
            f"`{argument}` must be a list of codes, prefixes, names or globs, got the string {patterns!r}."
        )
    patterns = tuple(patterns)
    for pattern in patterns:
        if not pattern:
            raise ValueError(f"`{argument}` has an empty entry; leave it out.")
        looks_like_code = pattern.upper().startswith("LT") and pattern[2:].isdigit()
        # An empty catalogue knows no codes: the rules have not been imported, as in a journal used on its own.
        if looks_like_code and len(CATALOGUE) and not CATALOGUE.matching(pattern) and pattern not in CATALOGUE:
            raise ValueError(f"`{argument}` has {pattern!r}, which is the code or prefix of no rule.")
    return patterns


def _matches(pattern: str, finding: Finding) -> bool:
    return (
        finding.code.startswith(pattern.upper())
        or finding.name == pattern
        or (bool(finding.where) and fnmatch.fnmatchcase(finding.where, pattern))
    )
