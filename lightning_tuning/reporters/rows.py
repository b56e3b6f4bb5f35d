"""Findings as rows of a table, for programs and spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from lightning_tuning.findings import Finding

__all__ = ["COLUMNS", "csv_text", "row"]

COLUMNS = (
    "severity",
    "code",
    "name",
    "where",
    "source_line",
    "message",
    "remedy",
    "step",
    "last_step",
    "epoch",
    "count",
    "rank",
    "evidence",
)
"""Names of the cells of a row: the fields of :class:`~lightning_tuning.Finding`, those that a person reads first."""


def row(finding: Finding) -> list[str | int | None]:
    """The cells of ``finding``; its evidence is one cell of JSON, what it lacks is ``None``.

    Example:
        >>> from lightning_tuning.findings import Severity
        >>> found = Finding("LT601", "exploding-gradient", Severity.WARNING, "too large", evidence={"norm": 310.0})
        >>> row(found)[:3], row(found)[-1]
        (['warning', 'LT601', 'exploding-gradient'], '{"norm": 310.0}')
    """
    values = finding.to_dict()
    return [json.dumps(values[name]) if name == "evidence" else values[name] for name in COLUMNS]


def csv_text(findings: Sequence[Finding]) -> str:
    r"""``findings`` as a CSV file with a header, as RFC 4180 has it but for the plain ``\n`` at the end of a line.

    Example:
        >>> csv_text([]).startswith("severity,code,name,where")
        True
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(row, findings))
    return text.getvalue()
