"""What came of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_tuning import Finding, Severity


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        accuracy: on the validation data, at the end.
        loss: likewise, of the problem's own loss.
        progress: what the library thinks of the run at its end.
        findings: as plain dicts, worst first.
        seconds: of processor time.
    """

    accuracy: float
    loss: float
    progress: str
    findings: list[dict[str, Any]]
    seconds: float

    def at_least(self, severity: Severity) -> list[str]:
        found = map(Finding.from_dict, self.findings)
        return [f"{f.severity} {f.text(silence=False)}" for f in found if f.severity >= severity]
