"""What a trial before the run came to: passed or not, by which number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from lightning_tuning.findings.finding import Finding

__all__ = ["Outcome", "TellsVerdicts", "Verdict"]

Outcome = Literal["passed", "failed", "undecided", "not applicable"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One trial, and what came of it.

    Args:
        name: of the trial, ``"overfit one batch"``.
        outcome: ``"passed"``, ``"failed"``, ``"undecided"`` (it ran out of time or iterations while things still
            improved) or ``"not applicable"``.
        sentence: what was seen, or why there is nothing to see.
        measured: the number that decided; ``None`` where there is none.
        threshold: what it was held against.
        code: of the rule that speaks of it, ``"LT110"``; ``""`` where there is none.

    Example:
        >>> verdict = Verdict("overfit one batch", "passed", "loss 1.1 -> .05 in 40 iterations", 0.045, 0.1)
        >>> verdict.to_dict()["outcome"]
        'passed'
    """

    name: str
    outcome: Outcome
    sentence: str
    measured: float | None = None
    threshold: float | None = None
    code: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON types; numbers that JSON lacks (``nan``) become text."""
        values = dataclasses.asdict(self)
        for name in ("measured", "threshold"):
            if values[name] is not None and not math.isfinite(values[name]):
                values[name] = str(values[name])
        return values

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """The inverse of :meth:`to_dict`.

        Raises:
            KeyError, TypeError, ValueError: for what is none.
        """
        measured, threshold = (None if data[name] is None else float(data[name]) for name in ("measured", "threshold"))
        return cls(data["name"], data["outcome"], data["sentence"], measured, threshold, data["code"])


@runtime_checkable
class TellsVerdicts(Protocol):
    """A reporter that has a form for verdicts."""

    def verdicts(self, verdicts: Sequence[Verdict], suspects: Sequence[Finding]) -> None:
        """All verdicts of a run's trials, and the findings that may explain a failure, the likeliest first."""
