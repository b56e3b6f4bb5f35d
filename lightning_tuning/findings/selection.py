"""Which findings a journal takes: ``select`` and ``ignore``."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from lightning_tuning.findings.catalogue import CATALOGUE, UnknownRuleError
from lightning_tuning.findings.finding import Finding

__all__ = ["Selection"]

_CODE = re.compile(r"LT\d*", re.IGNORECASE)
_NAME = re.compile(r"[a-z]+(-[a-z]+)+")  # kebab case: no path of a module looks so


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


def _patterns(argument: str, patterns: object) -> tuple[str, ...]:
    if isinstance(patterns, str) or not isinstance(patterns, Iterable):
        raise ValueError(f"`{argument}` must be a list of codes, prefixes, names or globs, got {patterns!r}.")
    return tuple(_resolved(argument, pattern) for pattern in patterns)


def _resolved(argument: str, pattern: object) -> str:
    """``pattern`` with codes in upper case and retired ones led to their successors."""
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(f"`{argument}` has the entry {pattern!r}; allowed are codes, prefixes, names and globs.")
    # An empty catalogue knows no rules: they have not been imported, as with a journal used on its own.
    if not _CODE.fullmatch(pattern):
        if len(CATALOGUE) and _NAME.fullmatch(pattern):
            _known(argument, pattern)
        return pattern
    if len(CATALOGUE) and not CATALOGUE.matching(pattern):
        return _known(argument, pattern)
    return pattern.upper()


def _known(argument: str, asked: str) -> str:
    try:
        return CATALOGUE[asked].code
    except UnknownRuleError as unknown:
        raise ValueError(f"`{argument}` has {asked!r}, the code, prefix or name of no rule. {unknown}") from None


def _matches(pattern: str, finding: Finding) -> bool:
    if _CODE.fullmatch(pattern):
        return finding.code.startswith(pattern)
    return finding.name == pattern or (bool(finding.where) and fnmatch.fnmatchcase(finding.where, pattern))
