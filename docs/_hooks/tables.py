"""The simple tables of docstrings, ruled with ``=``, as tables of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["with_tables"]

_RULE = r"=+(?: +=+)+"
_TABLE = re.compile(rf"^({_RULE})\n((?:(?!{_RULE}$).+\n)+)(?:\1\n((?:(?!{_RULE}$).+\n)+))?\1$", re.MULTILINE)


def with_tables(docstring: str) -> str:
    """``docstring`` with its tables in Markdown; one without a heading gets an empty one, which Markdown asks for."""
    return _TABLE.sub(_table, docstring)


def _table(found: re.Match[str]) -> str:
    starts = [column.start() for column in re.finditer("=+", found[1])]
    heading, body = (found[2], found[3]) if found[3] else ("", found[2])
    rows = [*(_rows(heading, starts) if heading else [[""] * len(starts)]), ["---"] * len(starts), *_rows(body, starts)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _rows(text: str, starts: list[int]) -> Iterator[list[str]]:
    """The cells of each row; a line with nothing in the first column goes on with the row before."""
    row: list[str] = []
    for line in text.splitlines():
        cells = [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        if cells[0] and row:
            yield row
            row = []
        row = [" ".join(filter(None, pair)) for pair in zip(row, cells, strict=True)] if row else cells
    yield row
