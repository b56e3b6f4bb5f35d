"""Findings as cards: one for each code, worst first, with the places where it was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from lightning_tuning.findings import CATALOGUE, Diagnosis, Finding, Rule
from lightning_tuning.findings.declarations import register_declared_rules
from lightning_tuning.reporters.html._words import clip, number
from lightning_tuning.reporters.run_record import Run

__all__ = ["Card", "Entry", "anchors_of", "cards", "rule_of"]

RULES = Path(__file__).parents[2] / "rules"
OPEN = 3
"""Places of one code that are told in full; the rest are folded, a line each."""
LISTED = 3_000
"""Findings that are listed in all; those beyond are counted. At some 500 bytes each they fill what a page may weigh."""
EVIDENCE = 24


@dataclasses.dataclass(frozen=True)
class Entry:
    """One finding.

    Attributes:
        anchor: of its element.
        severity: ``"error"``, ``"warning"`` or ``"info"``.
        where: module, parameter or group.
        source_line: ``"train.py:31"``.
        when: ``"x37, steps 812-990"``.
        message: with the numbers.
        evidence: names and values.
        remedy: what to change; empty where the card says it for all of its entries.
        causes: what it may explain, a sentence each.
    """

    anchor: str
    severity: str
    where: str
    source_line: str
    when: str
    message: str
    evidence: Sequence[tuple[str, str]]
    remedy: str
    causes: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Card:
    """All findings of one code.

    Attributes:
        anchor: of its element.
        code: of the rule.
        name: of the rule.
        severity: of the worst.
        rule: its declaration; ``None`` where this version does not know the code.
        remedy: where all have the same.
        entries: told in full.
        folded: told in a line.
        left: neither, only counted.
    """

    anchor: str
    code: str
    name: str
    severity: str
    rule: Rule | None
    remedy: str
    entries: Sequence[Entry]
    folded: Sequence[Entry]
    left: int

    @property
    def count(self) -> int:
        """How many findings it is of."""
        return len(self.entries) + len(self.folded) + self.left

    @property
    def silence(self) -> str:
        """What keeps the suite from saying it again."""
        return f'TuningSuite(ignore=["{self.code}"])'

    @property
    def comment(self) -> str:
        """What keeps it from saying it of one line; empty where no line is known."""
        known = any(entry.source_line for entry in (*self.entries, *self.folded))
        return f"# tuning: ignore[{self.code}] why" if known else ""


def cards(run: Run) -> list[Card]:
    """The findings of a run by code: the worst severity first, in it first what the diagnosis suspects.

    Example:
        >>> from lightning_tuning.findings import Severity
        >>> found = Finding("LT601", "exploding-gradient", Severity.WARNING, "norm 310", where="net.0", step=3)
        >>> (card,) = cards(Run(Path("7"), {}, [found]))
        >>> card.rule.kind, card.entries[0].where, card.entries[0].when, card.silence
        ('symptom', 'net.0', 'step 3', 'TuningSuite(ignore=["LT601"])')
    """
    by_code: dict[str, list[int]] = {}
    for place, found in enumerate(run.findings):
        by_code.setdefault(found.code, []).append(place)
    suspected = _suspected(run.diagnosis)
    ranks = {found.key: rank for rank, found in enumerate(suspect for suspect, _ in suspected)}

    def order(code: str) -> tuple[int, int, int]:
        members = [run.findings[place] for place in by_code[code]]
        worst = max(members, key=lambda found: found.severity)
        return -worst.severity, min(ranks.get(found.key, len(ranks)) for found in members), by_code[code][0]

    listed = anchors_of(run)
    return [
        _card(index, run, by_code[code], listed, suspected) for index, code in enumerate(sorted(by_code, key=order))
    ]


def anchors_of(run: Run) -> dict[int, str]:
    """The element of each finding by its place in the run's; the most frequent codes give up places first."""
    if len(run.findings) <= LISTED:
        return {place: f"finding-{place}" for place in range(len(run.findings))}
    by_code: dict[str, list[int]] = {}
    for place, found in enumerate(run.findings):
        by_code.setdefault(found.code, []).append(place)
    kept: list[int] = []
    room, codes = LISTED, sorted(by_code.values(), key=len)
    for done, members in enumerate(codes):
        share = room // (len(codes) - done)
        kept += members[:share]
        room -= len(members[:share])
    return {place: f"finding-{place}" for place in sorted(kept)}


def rule_of(code: str) -> Rule | None:
    """The declaration of a rule; retired codes lead to their successors."""
    register_declared_rules(RULES)
    return CATALOGUE[code] if code in CATALOGUE else None  # noqa: SIM401  # it has no `get`


def _suspected(diagnosis: Diagnosis | None) -> list[tuple[Finding, str]]:
    if diagnosis is None:
        return []
    return [
        (suspect.finding, f"Likely cause {rank} of “{clip(diagnosis.outcome, 200)}”: {clip(suspect.why, 200)}.")
        for rank, suspect in enumerate(diagnosis.suspects, start=1)
    ]


def _card(
    index: int, run: Run, places: Sequence[int], anchors: dict[int, str], suspected: Sequence[tuple[Finding, str]]
) -> Card:
    members = [run.findings[place] for place in places]
    worst = max(members, key=lambda found: found.severity)
    remedies = {found.remedy for found in members}
    shared = worst.remedy if len(remedies) == 1 else ""
    entries = [
        _entry(run.findings[place], anchors[place], shared, suspected)
        for place in sorted(places, key=lambda place: (-run.findings[place].severity, place))
        if place in anchors
    ]
    return Card(
        f"card-{index}",
        clip(worst.code, 80),
        clip(worst.name, 200),
        str(worst.severity),
        rule_of(worst.code),
        shared,
        entries[:OPEN],
        entries[OPEN:],
        len(members) - len(entries),
    )


def _entry(found: Finding, anchor: str, shared: str, suspected: Sequence[tuple[Finding, str]]) -> Entry:
    evidence = [(clip(str(name), 100), number(value).replace("`", "")) for name, value in found.evidence.items()]
    if len(evidence) > EVIDENCE:
        evidence = [*evidence[:EVIDENCE], ("…", f"{len(evidence) - EVIDENCE} more")]
    return Entry(
        anchor,
        str(found.severity),
        clip(found.where, 400),
        clip(found.source_line or "", 400),
        found.steps(),
        clip(found.message),
        evidence,
        "" if shared else found.remedy,
        [sentence for suspect, sentence in suspected if suspect.key == found.key],
    )
