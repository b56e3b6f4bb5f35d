"""Two runs compared: which findings are new, gone, worse or better, and how far the loss came."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lightning_tuning.findings import Finding, Severity
from lightning_tuning.reporters.json_lines import as_number, plain
from lightning_tuning.reporters.loss_ends import LossEnds, loss_ends, steps_of
from lightning_tuning.reporters.run_record import Run

__all__ = ["Change", "RunDiff", "compare_findings", "compare_runs"]

_SLACK = 1.1
"""Factor by which a measured number has to move: less is what another seed does."""
_OFTEN = 2.0
"""Factor by which the number of times has to move, which two runs share far less."""
_OUTCOMES = ("steps", "epochs")
"""Of ``run.json``'s trainer: what became of the run, not what it was told."""


@dataclasses.dataclass(frozen=True)
class Change:
    """One finding that both runs have.

    Attributes:
        before: as the first run has it.
        after: as the second does.
        way: ``-1`` better, ``0`` the same, ``1`` worse.
        why: what tells, ``"ratio 12 -> 48, threshold 10"``; ``""`` where nothing changed.
    """

    before: Finding
    after: Finding
    way: int = 0
    why: str = ""


@dataclasses.dataclass(frozen=True)
class RunDiff:
    """What the second run has of the first; each list with the worst first.

    Attributes:
        new: findings of the second run alone.
        gone: of the first alone.
        both: of both, with what became of them.
        losses: how far they came, by the name of the loss: of the first and of the second run.
        settings: what else differs, ``"trainer.precision"``: in the first and in the second run.
    """

    new: Sequence[Finding]
    gone: Sequence[Finding]
    both: Sequence[Change]
    losses: Mapping[str, tuple[LossEnds, LossEnds]] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    def changes(self, way: int) -> list[Change]:
        """Those of ``both`` that went that way."""
        return [change for change in self.both if change.way == way]

    def is_worse(self, least: Severity = Severity.WARNING) -> bool:
        """Something is new or worse, and by now of severity ``least`` or above: an info is advice, or goes well."""
        now = [*self.new, *(change.after for change in self.changes(1))]
        return any(finding.severity >= least for finding in now)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        told = {
            name: [
                {"why": change.why, "before": change.before.to_dict(), "after": change.after.to_dict()}
                for change in self.changes(way)
            ]
            for name, way in (("worse", 1), ("better", -1), ("same", 0))
        }
        losses = {
            name: {"before": dataclasses.asdict(before), "after": dataclasses.asdict(after)}
            for name, (before, after) in self.losses.items()
        }
        return {
            "new": [finding.to_dict() for finding in self.new],
            "gone": [finding.to_dict() for finding in self.gone],
            **told,
            "losses": plain(losses),
            "settings": {name: {"before": one, "after": other} for name, (one, other) in self.settings.items()},
        }


def compare_runs(before: Run, after: Run) -> RunDiff:
    """What became of the findings of ``before`` in ``after``, of its losses, and of what it ran with.

    How often a finding was seen is held against the steps of its run, where both recorded theirs.
    """
    first_steps, second_steps = steps_of(before), steps_of(after)
    longer = second_steps / first_steps if first_steps and second_steps else 1.0
    diff = compare_findings(before.findings, after.findings, longer=longer)
    first, second = loss_ends(before), loss_ends(after)
    losses = {name: (first[name], second[name]) for name in first if name in second}
    settings = {name: pair for name, pair in _settings(before.info, after.info) if pair[0] != pair[1]}
    return dataclasses.replace(diff, losses=losses, settings=settings)


def compare_findings(before: Iterable[Finding], after: Iterable[Finding], *, longer: float = 1.0) -> RunDiff:
    """Match the findings of two runs and judge each pair.

    Source lines move as a file is edited, and modules are renamed: matched are findings of one code first at the same
    place and line, then at the same place in the same file, then at the same place, then at the same line. Findings of
    one place and several lines keep their order.

    A pair is judged by its severity; if that is the same by the measured number, where the evidence begins with one and
    its threshold (10 % further beyond it is worse); else by how often it was seen (twice as often is worse, if it is
    also twice as often for the steps).

    Args:
        before: of the first run, any order.
        after: of the second.
        longer: how many times as long the second run was.

    Example:
        >>> from lightning_tuning.findings import Severity
        >>> known = Finding("LT604", "update-too-large", Severity.WARNING, "0.2 > 0.1", source_line="train.py:12")
        >>> moved = dataclasses.replace(known, source_line="train.py:15", severity=Severity.ERROR)
        >>> diff = compare_findings([known], [moved])
        >>> diff.new, diff.changes(1)[0].why
        ([], 'warning -> error')
    """
    left, right = sorted(before, key=_line), sorted(after, key=_line)
    both: list[Change] = []
    for key in _KEYS:
        pairs = list(_pairs(left, right, key))
        both += [_judged(one, other, longer) for one, other in pairs]
        left = [finding for finding in left if not any(finding is one for one, _ in pairs)]
        right = [finding for finding in right if not any(finding is other for _, other in pairs)]
    both.sort(key=lambda change: _worst_first(change.after))
    return RunDiff(sorted(right, key=_worst_first), sorted(left, key=_worst_first), both)


def _settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Versions, model and trainer where both tell of them."""
    for part in ("model", "trainer", "versions"):
        one, other = before.get(part), after.get(part)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            names = [name for name in one if name in other and name not in _OUTCOMES]
            yield from ((f"{part}.{name}", (plain(one[name]), plain(other[name]))) for name in names)


def _file(finding: Finding) -> str:
    return (finding.source_line or "").rpartition(":")[0]


def _line(finding: Finding) -> tuple[str, int]:
    number = (finding.source_line or "").rpartition(":")[2]
    return _file(finding), int(number) if number.isdecimal() else 0


def _worst_first(finding: Finding) -> tuple[Any, ...]:
    return -finding.severity, finding.code, finding.where, *_line(finding)


_KEYS: tuple[Callable[[Finding], Hashable | None], ...] = (
    lambda finding: finding.key,
    lambda finding: (finding.code, finding.where, _file(finding)),
    lambda finding: (finding.code, finding.where) if finding.where else None,  # two files may have no place in common
    lambda finding: (finding.code, finding.source_line) if finding.source_line else None,
)


def _pairs(
    left: Sequence[Finding], right: Sequence[Finding], key: Callable[[Finding], Hashable | None]
) -> Iterator[tuple[Finding, Finding]]:
    waiting: dict[Hashable, list[Finding]] = {}
    for finding in right:
        waiting.setdefault(key(finding), []).append(finding)
    waiting.pop(None, None)
    for finding in left:
        if others := waiting.get(key(finding)):
            yield finding, others.pop(0)


def _judged(before: Finding, after: Finding, longer: float) -> Change:
    if before.severity != after.severity:
        way = 1 if after.severity > before.severity else -1
        return Change(before, after, way, f"{before.severity} -> {after.severity}")
    first, second = _measured(before), _measured(after)
    if first is not None and second is not None and (first.name, first.is_above) == (second.name, second.is_above):
        way = _way(first.beyond, second.beyond, _SLACK)
        text = f"{first.name} {first.value:.3g} -> {second.value:.3g}, threshold {second.threshold:g}"
        return Change(before, after, way, text if way else "")
    ways = _way(before.count, after.count, _OFTEN), _way(before.count * longer, after.count, _OFTEN)
    way = ways[0] if ways[0] == ways[1] else 0  # what is seen once in a run is no more often in a shorter one
    steps = f", in {longer:.2g} times the steps" if not math.isclose(longer, 1.0, rel_tol=0.05) else ""
    return Change(before, after, way, f"x{before.count} -> x{after.count}{steps}" if way else "")


def _way(before: float, after: float, slack: float) -> int:
    return int(after > before * slack) - int(before > after * slack)


@dataclasses.dataclass(frozen=True)
class _Measured:
    name: str
    value: float
    threshold: float

    @property
    def is_above(self) -> bool:
        return self.value >= self.threshold

    @property
    def beyond(self) -> float:
        """How many times the threshold, or how many times below it; at least 1."""
        if self.is_above:
            return self.value / self.threshold
        return self.threshold / self.value if self.value > 0 else math.inf


def _measured(finding: Finding) -> _Measured | None:
    """The number that was held against a threshold, if the evidence begins with these two."""
    (name, value), (second, bound) = (*finding.evidence.items(), ("", None), ("", None))[:2]
    measured, threshold = as_number(value), as_number(bound)
    if second != "threshold" or measured is None or threshold is None:
        return None
    is_known = threshold > 0 and math.isfinite(threshold) and measured >= 0  # NaN is not
    return _Measured(name, measured, threshold) if is_known else None
