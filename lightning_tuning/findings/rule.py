"""The declaration of a rule of thumb: the one place where its code, reason and remedy stand."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal, get_args

from lightning_tuning.findings.finding import Evidence, Finding, Severity

__all__ = ["Kind", "Rule"]

Kind = Literal["fact", "symptom", "outcome", "advice"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule of thumb, declared once; catalogue, ``explain``, the README's table and every finding are made from it.

    Args:
        code: ``LT`` and three digits. Stable: never reused, never renumbered.
        name: kebab case, says what is wrong.
        severity: the severity of its findings unless a finding says otherwise.
        kind: ``"fact"`` = wrong while the run still looks well, never gated. ``"symptom"`` = a warning only when it
            persists *and* the run does not learn. ``"outcome"`` = a reading of the gate itself, or measured harm.
            ``"advice"`` = taste: said only of a run that is not seen to learn, never of one that does well without.
        why: why it is bad, one or two sentences with the figures.
        remedy: what to change, with a line of code where possible.
        source: where the rule comes from (paper and section, or what was measured).
        since: the version that brought it.

    Raises:
        ValueError: if ``code``, ``name`` or ``kind`` is not of the form above.

    Example:
        >>> rule = Rule(
        ...     "LT999", "too-much", Severity.INFO, "fact", why="It is.", remedy="Take less.", source="Measured."
        ... )
        >>> rule.finding("9 > 3", where="net.0", evidence={"value": 9.0, "threshold": 3.0}).headline()
        'LT999 too-much at net.0: 9 > 3'
    """

    code: str
    name: str
    severity: Severity
    kind: Kind
    why: str
    remedy: str
    source: str
    since: str = "0.1.0"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"LT\d{3}", self.code):
            raise ValueError(f"`code` must be 'LT' and three digits, got {self.code!r}.")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise ValueError(f"`name` must be in kebab case, got {self.name!r}.")
        if self.kind not in get_args(Kind):
            raise ValueError(f"`kind` must be one of {get_args(Kind)}, got {self.kind!r}.")

    @property
    def gist(self) -> str:
        """The first sentence of ``why``, in one line."""
        return " ".join(re.split(r"(?<=[.!?])\s+(?=[A-Z])", self.why.strip(), maxsplit=1)[0].split())

    def finding(
        self,
        message: str,
        *,
        where: str = "",
        evidence: Evidence | None = None,
        severity: Severity | None = None,
        remedy: str | None = None,
        source_line: str | None = None,
    ) -> Finding:
        """A finding of this rule; severity and remedy are the rule's own unless given."""
        return Finding(
            code=self.code,
            name=self.name,
            severity=self.severity if severity is None else severity,
            message=message,
            where=where,
            source_line=source_line,
            evidence=dict(evidence or {}),
            remedy=self.remedy if remedy is None else remedy,
        )
