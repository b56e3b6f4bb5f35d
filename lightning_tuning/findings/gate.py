"""The outcome gate: how severe a finding is, given how the run goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from lightning_tuning.findings.catalogue import CATALOGUE
from lightning_tuning.findings.finding import Finding, Key, Severity

__all__ = ["PERSISTENCE", "OutcomeGate", "ProgressState"]

ProgressState = Literal["learning", "converged", "flat", "diverging", "unknown"]

PERSISTENCE = 3
"""Reports after which a symptom counts as persistent; one odd step in a run is not an illness."""


class OutcomeGate:
    """Lets facts and outcomes pass; holds symptoms as ``info`` until they persist in a run that goes wrong.

    Advice it withholds altogether until the run goes wrong (or, where nobody knows how it goes, until it is over).

    Persist means :data:`PERSISTENCE` reports while the run is flat or diverging, or while nobody knew yet. What was
    reported while the run learned is forgiven: it does not count when the run goes wrong later. What was seen of the
    set-up (initial weights, a learning rate) stands as long as nobody changes it: it counts again if the run, after
    what looked like learning, turns out to have gained nothing (flat).

    Example:
        >>> gate = OutcomeGate()
        >>> fact = Finding("LT999", "too-much", Severity.WARNING, "9 > 3")  # of no symptom in the catalogue
        >>> gate.take(fact)
        >>> str(gate.severity(fact))
        'warning'
    """

    def __init__(self) -> None:
        self.progress: ProgressState = "unknown"
        self.is_over = False
        self._intended: dict[Key, Severity] = {}
        self._recently: Counter[Key] = Counter()
        self._standing: set[Key] = set()

    def take(self, finding: Finding, *, stands: bool = False) -> None:
        """A report: its severity is the one meant, whatever becomes of it here.

        Args:
            finding: as a rule made it.
            stands: it is of the set-up, seen once and for all.
        """
        key = finding.key
        self._recently[key] += finding.count
        if stands and finding.count >= PERSISTENCE:
            self._standing.add(key)
        self._intended[key] = max(finding.severity, self._intended.get(key, finding.severity))

    def severity(self, finding: Finding) -> Severity:
        """How severe ``finding`` is now."""
        intended = self._intended.get(finding.key, finding.severity)
        if finding.code not in CATALOGUE or CATALOGUE[finding.code].kind != "symptom" or intended is Severity.ERROR:
            return intended  # what is provable is a fact, whatever else its rule speaks of
        harmful = self.progress in ("flat", "diverging")
        persists = self._recently[finding.key] >= PERSISTENCE or (
            self.progress == "flat" and finding.key in self._standing
        )
        return intended if harmful and persists else min(intended, Severity.INFO)

    def withholds(self, finding: Finding) -> bool:
        """Whether ``finding`` is advice that a run which does well without need not hear; at its end, if it does."""
        if finding.code not in CATALOGUE or CATALOGUE[finding.code].kind != "advice":
            return False
        return self.progress in ("learning", "converged") or (self.progress == "unknown" and not self.is_over)

    def move(self, progress: ProgressState) -> bool:
        """The run's progress reads ``progress`` now; true if that is new."""
        changed, self.progress = progress != self.progress, progress
        if progress in ("learning", "converged"):
            self._recently.clear()
        return changed

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "progress": self.progress,
            "intended": [[*key, int(severity)] for key, severity in self._intended.items()],
            "recently": [[*key, count] for key, count in self._recently.items()],
            "standing": [list(key) for key in sorted(self._standing)],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self.progress = state["progress"]
        self._intended = {(code, where, line): Severity(level) for code, where, line, level in state["intended"]}
        self._recently = Counter({(code, where, line): count for code, where, line, count in state["recently"]})
        self._standing = {(code, where, line) for code, where, line in state.get("standing", ())}
