"""A comment in the user's code that silences a rule on its line: ``# tuning: ignore[LT301] it was measured``."""

from __future__ import annotations

import linecache
import re

__all__ = ["suppressed_codes"]

_COMMENT = re.compile(r"#\s*tuning:\s*ignore\s*\[([^\]]*)\]", re.IGNORECASE)


def suppressed_codes(source_line: str | None) -> frozenset[str]:
    """Codes, prefixes and names of rules that the line says are to be ignored there.

    Args:
        source_line: as a finding has it, ``"train.py:12"``; a relative path is looked up below the working directory
            and on ``sys.path``. ``None``, or a file that cannot be read: nothing is ignored.

    Example:
        >>> suppressed_codes(None)
        frozenset()
    """
    path, _, number = (source_line or "").rpartition(":")
    if not path or not number.isdigit():
        return frozenset()
    found = _COMMENT.search(linecache.getline(path, int(number)))
    if found is None:
        return frozenset()
    return frozenset(part.strip() for part in found.group(1).split(",") if part.strip())
