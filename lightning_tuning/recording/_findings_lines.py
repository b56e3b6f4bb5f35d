"""Findings as lines of a file, each as it is told; and the summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from lightning_tuning.findings import Diagnosis, Finding, Verdict
from lightning_tuning.reporters.json_lines import JsonLines

__all__ = ["FindingsLines"]


class FindingsLines:
    """A reporter that writes ``findings.jsonl``; no person can see it.

    Lines that come before there is a file wait for it.

    Args:
        over: is called when the summary is written: the run is over.
        sparing: for what goes wrong in writing; whoever tells a finding has nothing to do with it.
    """

    def __init__(self, over: Callable[[], None], sparing: AbstractContextManager[Any]) -> None:
        self._over, self._sparing = over, sparing
        self._file: JsonLines | None = None
        self._waiting: list[dict[str, Any]] = []
        self._diagnosis: Diagnosis | None = None
        self._verdicts: list[dict[str, Any]] = []
        self._is_closed = False

    def open(self, file: JsonLines) -> None:
        """Write to ``file`` from now on."""
        self._file = file
        file.add(*self._waiting)
        self._waiting.clear()

    def finding(self, finding: Finding) -> bool:
        """One line, at once."""
        self._add({"event": "finding", "finding": finding.to_dict()})
        return False

    def verdicts(self, verdicts: Sequence[Verdict], suspects: Sequence[Finding]) -> None:
        """What came of the trials before the run."""
        self._verdicts = [verdict.to_dict() for verdict in verdicts]
        self._add({"event": "verdicts", "verdicts": self._verdicts})

    def diagnosis(self, diagnosis: Diagnosis) -> None:
        """It goes into the summary."""
        self._diagnosis = diagnosis

    def close(self, findings: Sequence[Finding], notes: Sequence[str]) -> None:
        """The summary: all ranks' findings, as they stand at the end."""
        if self._is_closed:
            return
        self._add(
            {
                "event": "summary",
                "findings": [finding.to_dict() for finding in findings],
                "notes": list(notes),
                "diagnosis": None if self._diagnosis is None else self._diagnosis.to_dict(),
                "verdicts": self._verdicts,
            }
        )
        self._over()
        self._is_closed = True

    def _add(self, line: dict[str, Any]) -> None:
        if self._is_closed:
            return  # of a later run, of which somebody else keeps a record
        if self._file is None:
            self._waiting.append(line)
        else:
            with self._sparing:
                self._file.add(line)
