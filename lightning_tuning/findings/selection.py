"""Which findings a journal takes, and how bad it calls them."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Mapping

from lightning_tuning.findings.catalogue import CATALOGUE, UnknownRuleError
from lightning_tuning.findings.finding import Finding, Severity
from lightning_tuning.findings.suppression import suppressed_codes

__all__ = ["Selection"]

_CODE = re.compile(r"LT\d*", re.IGNORECASE)
_NAME = re.compile(r"[a-z]+(-[a-z]+)+")  # kebab case: no path of a module looks so


class Selection:
    """A finding is taken if one of ``select`` matches it and none of ``ignore``.

    An entry is a code (``"LT601"``), a prefix of codes (``"LT6"``), a rule's name, or a glob on the place
    (``"encoder.*"``). What a comment ``# tuning: ignore[LT301]`` on the finding's source line names is not taken
    either.

    Args:
        select: ``None`` (default) takes everything.
        ignore: ``None`` (default) drops nothing.
        per_path_ignores: entries of ``ignore`` for findings whose source line lies in a file that the glob matches,
            ``{"legacy/*.py": ["LT3"]}``.
        severity: what a rule's findings are called instead, ``{"LT901": "warning"}``; keys as in ``ignore``, but no
            globs. Of two that match, the longer decides. A symptom is still held back while a run learns, unless it is
            called an error.

    Raises:
        ValueError: for a bare string, an empty entry, a code or prefix of no rule, or an unknown severity.

    Example:
        >>> found = Finding("LT601", "exploding-gradient", Severity.WARNING, "norm", where="encoder.0.weight")
        >>> found in Selection(ignore=["encoder.*"]), found in Selection(select=["exploding-gradient"])
        (False, True)
        >>> Selection(severity={"LT6": "error"}).taken(found).severity
        <Severity.ERROR: 3>
    """

    def __init__(
        self,
        select: Iterable[str] | None = None,
        ignore: Iterable[str] | None = None,
        per_path_ignores: Mapping[str, Iterable[str]] | None = None,
        severity: Mapping[str, str] | None = None,
    ) -> None:
        self.select = None if select is None else _patterns("select", select)
        self.ignore = _patterns("ignore", ignore or ())
        self.per_path_ignores = {
            path: _patterns(f"per_path_ignores[{path!r}]", patterns)
            for path, patterns in _items("per_path_ignores", per_path_ignores)
        }
        self.severity = {
            _resolved("severity", rule): Severity.parse(str(level)) for rule, level in _items("severity", severity)
        }

    def __contains__(self, finding: Finding) -> bool:
        selected = self.select is None or any(_matches(pattern, finding) for pattern in self.select)
        if not selected or any(_matches(pattern, finding) for pattern in self.ignore):
            return False
        path = (finding.source_line or "").rpartition(":")[0]
        here = [p for glob, patterns in self.per_path_ignores.items() if fnmatch.fnmatch(path, glob) for p in patterns]
        here += [p.upper() if _CODE.fullmatch(p) else p for p in suppressed_codes(finding.source_line)]
        return not any(_matches(pattern, finding) for pattern in here)

    def taken(self, finding: Finding) -> Finding | None:
        """``finding`` with the severity that it is to have; ``None`` if it is not taken."""
        if finding not in self:
            return None
        called = [pattern for pattern in self.severity if _matches(pattern, finding)]
        return dataclasses.replace(finding, severity=self.severity[max(called, key=len)]) if called else finding


def _items(argument: str, value: object) -> Iterable[tuple[str, object]]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise ValueError(f"`{argument}` must be a table of names and values, got {value!r}.")
    return value.items()


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
