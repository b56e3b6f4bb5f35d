"""Findings on a terminal: as they come, and all of them at the end of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from lightning_tuning.findings import Diagnosis, Finding, Severity, Verdict
from lightning_tuning.reporters.beside import print_beside_bars
from lightning_tuning.reporters.layout import announcement, summary
from lightning_tuning.reporters.preflight_table import preflight_table

__all__ = ["TerminalReporter"]


class TerminalReporter:
    """Shows findings to the person at the terminal.

    Each finding is told once as it comes (and again should its severity rise), in whole lines that leave Lightning's
    progress bars, tqdm's and rich's, as they were. At the end of the run comes a summary: what was found, worst first,
    and what guards and treatments did. A healthy run gets one line.

    Args:
        console: where to print. Default: a new one on ``sys.stdout``, the stream of Lightning's own progress bars; it
            adapts to the width of the terminal, and is plain text in files and pipes. A console does not travel to a
            spawned process, which prints on its own ``sys.stdout``.
        min_severity: findings below it are not told as they come; the summary counts them and names the first three.
            Default ``"warning"``: an info is advice, or a symptom in a run that learns well.
        summary: whether to print one at the end. Default ``True``.

    Raises:
        ValueError: for an unknown ``min_severity``.

    Example:
        >>> from lightning_tuning.findings import Rule
        >>> rule = Rule("LT999", "too-much", Severity.WARNING, "fact", why="It is.", remedy="Less.", source="Measured.")
        >>> reporter = TerminalReporter()
        >>> reporter.finding(rule.finding("9 > 3", where="net.0"))
        warning LT999 too-much at net.0
          9 > 3
          remedy: Less.
          more: lightning-tuning explain LT999
        <BLANKLINE>
        True
        >>> reporter.close([], [])
        lightning-tuning: no findings
    """

    def __init__(
        self, console: Console | None = None, min_severity: Severity | str = Severity.WARNING, summary: bool = True
    ) -> None:
        allowed = [str(severity) for severity in Severity]
        if str(min_severity) not in allowed:
            raise ValueError(f"`min_severity` must be one of {', '.join(map(repr, allowed))}, got {min_severity!r}.")
        self.min_severity = Severity.parse(str(min_severity))
        self.summary = summary
        self._console = console
        self._told: dict[tuple[str, str, str], Severity] = {}
        self._diagnosis: Diagnosis | None = None

    def finding(self, finding: Finding) -> bool:
        """Tell ``finding``, unless it was told before at this severity; True if the person has been told."""
        if finding.severity < self.min_severity:
            return False
        if finding.severity <= self._told.get(finding.key, 0):
            return True
        explain = all(code != finding.code for code, *_ in self._told)  # once for each code is enough
        self._told[finding.key] = finding.severity
        console = self._console or Console()
        print_beside_bars(console, *announcement(finding, console, explain=explain))
        return True

    def verdicts(self, verdicts: Sequence[Verdict], suspects: Sequence[Finding]) -> None:
        """Print what the trials before the run came to, and what may explain a failure."""
        console = self._console or Console()
        print_beside_bars(console, *preflight_table(verdicts, suspects, console))

    def diagnosis(self, diagnosis: Diagnosis) -> None:
        """Keep it for the summary, which says after the findings how the run went wrong, and what may explain it."""
        self._diagnosis = diagnosis

    def close(self, findings: Sequence[Finding], notes: Sequence[str]) -> None:
        """Print the summary, if it is wanted; the next run of this reporter starts anew."""
        self._told.clear()
        diagnosis, self._diagnosis = self._diagnosis, None
        if self.summary:
            console = self._console or Console()
            print_beside_bars(console, *summary(findings, notes, self.min_severity, console, diagnosis))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_console": None}  # a Console holds locks and a file
