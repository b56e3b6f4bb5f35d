"""What is said about a run: one finding, JSON-serializable, without torch."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["Evidence", "Finding", "Severity", "fold"]

Evidence = Mapping[str, "float | int | str"]
Key = tuple[str, str, str]


class Severity(enum.IntEnum):
    """How bad a finding is; ordered, so that ``finding.severity >= Severity.WARNING`` reads as it should.

    ``ERROR`` is provable (a graph, an optimizer's identity, a non-finite number), ``WARNING`` is a measured pathology
    or a set-up fact that will cost the run, ``INFO`` is advice, taste, or a symptom in a run that learns well.

    Example:
        >>> Severity.parse("warning") < Severity.ERROR
        True
        >>> str(Severity.INFO)
        'info'
    """

    INFO = 1
    WARNING = 2
    ERROR = 3

    def __str__(self) -> str:
        return self.name.lower()

    @classmethod
    def parse(cls, text: str) -> Severity:
        """The severity called ``text``.

        Raises:
            ValueError: if there is none of that name.
        """
        try:
            return cls[text.upper()]
        except KeyError:
            allowed = ", ".join(repr(str(s)) for s in cls)
            raise ValueError(f"`severity` must be one of {allowed}, got {text!r}.") from None


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong, where, why it is believed, and what to change.

    Made by :meth:`Rule.finding`; the journal stamps ``step``, ``epoch`` and ``rank`` on it and folds repeats into
    ``count``.

    Args:
        code: stable code of the rule, ``"LT601"``.
        name: the rule's name, ``"exploding-gradient"``.
        severity: see :class:`Severity`.
        message: one sentence: the measured value against the threshold. Facts first.
        where: module or parameter path, optimizer group, batch key; ``""`` is the run as a whole.
        source_line: ``"file.py:12"`` of the user's code, where it is known.
        evidence: the numbers behind the message, floats, ints and strings only. Non-finite floats are allowed here and
            become the strings ``"nan"``, ``"inf"``, ``"-inf"`` in :meth:`to_dict`, because JSON has no such numbers.
        remedy: what to change, in one line, with code where possible.
        step: ``trainer.global_step`` when it was first seen; ``None`` before the run.
        last_step: the same of the latest repeat.
        epoch: ``trainer.current_epoch`` when it was first seen.
        count: how often it was reported.
        rank: the process that saw it first.

    Example:
        >>> found = Finding("LT601", "exploding-gradient", Severity.WARNING, "norm 310.0 > 10 x median 1.2")
        >>> found.to_dict()["severity"]
        'warning'
        >>> Finding.from_dict(found.to_dict()) == found
        True
    """

    code: str
    name: str
    severity: Severity
    message: str
    where: str = ""
    source_line: str | None = None
    evidence: Evidence = dataclasses.field(default_factory=dict)
    remedy: str = ""
    step: int | None = None
    last_step: int | None = None
    epoch: int | None = None
    count: int = 1
    rank: int = 0

    @property
    def key(self) -> Key:
        """What makes two reports the same finding: the code, the place, and the line."""
        return self.code, self.where, self.source_line or ""

    def headline(self) -> str:
        """``"LT601 exploding-gradient at net.0: norm 310.0 > 10 x median 1.2"``."""
        place = f" at {self.where}" if self.where else ""
        line = f" ({self.source_line})" if self.source_line else ""
        return f"{self.code} {self.name}{place}{line}: {self.message}"

    def steps(self) -> str:
        """When it was seen: ``"step 812"``, ``"x37, steps 812-990"`` or ``""`` before the run."""
        if self.step is None:
            return f"x{self.count}" if self.count > 1 else ""
        if self.count == 1 or self.last_step in (None, self.step):
            return f"step {self.step}"
        return f"x{self.count}, steps {self.step}-{self.last_step}"

    def text(self, *, silence: bool = True) -> str:
        """Headline, remedy and (unless ``silence`` is off) how to silence it, for a plain terminal or a warning."""
        when = self.steps()
        lines = [self.headline() + (f" [{when}]" if when else "")]
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        hint = f"; silence: TuningSuite(ignore=[{self.code!r}])" if silence else ""
        lines.append(f"  more: lightning-tuning explain {self.code}{hint}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "severity": str(self.severity),
            "evidence": {key: _jsonable(value) for key, value in self.evidence.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finding:
        """The inverse of :meth:`to_dict`; non-finite evidence stays the string that JSON carried.

        Fields that this version does not know (a newer one wrote them) are left out.
        """
        known = {field.name: data[field.name] for field in dataclasses.fields(cls) if field.name in data}
        return cls(**{**known, "severity": Severity.parse(data["severity"]), "evidence": dict(data["evidence"])})


def _jsonable(value: float | str) -> float | int | str:
    return str(float(value)) if isinstance(value, float) and not math.isfinite(value) else value


def fold(known: Finding, again: Finding) -> Finding:
    """``again`` with the beginning and the count of ``known``."""
    return dataclasses.replace(
        again, step=known.step, epoch=known.epoch, rank=known.rank, count=known.count + again.count
    )
