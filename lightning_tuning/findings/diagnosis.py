"""What is said of a run that went wrong: how, and by which findings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from lightning_tuning.findings.finding import Finding
from lightning_tuning.findings.gate import ProgressState

__all__ = ["Diagnose", "Diagnosis", "Suspect", "TellsDiagnosis"]


@dataclasses.dataclass(frozen=True)
class Suspect:
    """A finding that may be the cause.

    Args:
        finding: with its evidence.
        why: how it brings that about, half a sentence.
    """

    finding: Finding
    why: str


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """How a run went wrong, and the likely causes.

    Args:
        outcome: ``"the run did not learn (flat after 400 batches)"``.
        suspects: the likeliest first.

    Example:
        >>> from lightning_tuning.findings import Severity
        >>> found = Finding("LT314", "redundant-softmax", Severity.ERROR, "softmax feeds cross_entropy", where="net.5")
        >>> diagnosis = Diagnosis("the run did not learn", (Suspect(found, "its gradients vanish"),))
        >>> print(diagnosis.text())
        the run did not learn; likely causes, the likeliest first:
        1. LT314 redundant-softmax at net.5: softmax feeds cross_entropy (its gradients vanish)
    """

    outcome: str
    suspects: tuple[Suspect, ...] = ()

    def lines(self) -> list[str]:
        """One sentence, and one line for each suspect."""
        if not self.suspects:
            return [f"{self.outcome}; no finding explains it: `Preflight()` tries to fit one batch."]
        listed = [
            f"{number}. {suspect.finding.headline()} ({suspect.why})"
            for number, suspect in enumerate(self.suspects, start=1)
        ]
        return [f"{self.outcome}; likely causes, the likeliest first:", *listed]

    def text(self) -> str:
        """The lines as one text."""
        return "\n".join(self.lines())

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        suspects = [{"why": suspect.why, **suspect.finding.to_dict()} for suspect in self.suspects]
        return {"outcome": self.outcome, "suspects": suspects}


Diagnose = Callable[[Sequence[Finding], ProgressState], Diagnosis | None]
"""Makes a diagnosis of a run that is over out of its findings and its progress; ``None`` of one that went well."""


@runtime_checkable
class TellsDiagnosis(Protocol):
    """A reporter that has a form for it."""

    def diagnosis(self, diagnosis: Diagnosis) -> None:
        """How the run went wrong; told just before ``close``."""
