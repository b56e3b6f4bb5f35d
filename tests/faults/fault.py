"""What a fault is, and where the faults lie."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning_tuning import Severity
from tests.faults.learner import Learner
from tests.faults.outcome import Outcome

HERE = Path(__file__).parent

Strength = Literal["weak", "middle", "strong"]
STRENGTHS: tuple[Strength, ...] = ("weak", "middle", "strong")


@dataclass(frozen=True)
class Setup:
    """A run: its name, the module (the RNGs are seeded before), and arguments of ``quiet_trainer``."""

    name: str
    module: Callable[[], Learner]
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Diagnosis:
    """A finding that names the fault rightly.

    Attributes:
        code: of the rule.
        severity: that it has to have at the end, ``warning`` unless the rule never says more than ``info``.
        causes: of which ``evidence["cause"]`` has to be one, where the code alone says too little.
        where: a glob on the finding's place.
    """

    code: str
    severity: Severity = Severity.WARNING
    causes: tuple[str, ...] = ()
    where: str = "*"

    def __str__(self) -> str:
        return self.code

    def fits(self, finding: Mapping[str, Any]) -> bool:
        """``finding`` as a plain dict."""
        return (
            finding["code"] == self.code
            and Severity.parse(finding["severity"]) >= self.severity
            and (not self.causes or finding["evidence"].get("cause") in self.causes)
            and fnmatch.fnmatchcase(finding["where"], self.where)
        )


@dataclass(frozen=True)
class Fault:
    """A fault in one run.

    Attributes:
        name: of the fault, in kebab case.
        data: what is learned.
        strength: how much harm it does.
        run: with the fault.
        twin: without.
        expects: findings of which one has to be given; none of them is given for the twin.
        lost: by how much, at least, the share of validation samples that are told rightly is below the twin's.
        added: by how much, at least, the validation loss is above the twin's, where the classes are still told apart.
    """

    name: str
    data: str
    strength: Strength
    run: Setup
    twin: Setup
    expects: tuple[Diagnosis, ...]
    lost: float | None = None
    added: float | None = None

    def __str__(self) -> str:
        return f"{self.name}-{self.data}-{self.strength}"

    def harms(self, done: Outcome, twin: Outcome) -> bool:
        """Whether the fault did the harm that it should."""
        if self.lost is not None:
            return twin.accuracy - done.accuracy >= self.lost
        return self.added is not None and done.loss - twin.loss >= self.added

    def found_by(self, findings: Sequence[Mapping[str, Any]]) -> list[str]:
        """The codes, among ``findings``, that name this fault."""
        return sorted({str(d) for d in self.expects for finding in findings if d.fits(finding)})


def faults() -> list[Fault]:
    """Every fault there is: the lists ``FAULTS`` of the files ``fault_*.py``."""
    files = sorted(HERE.glob("fault_*.py"))
    return [fault for path in files for fault in importlib.import_module(f"tests.faults.{path.stem}").FAULTS]
