"""What a case is, and where the cases lie."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """One run, the smallest that shows what it is about.

    Attributes:
        module: makes the LightningModule, its data included; the RNGs are seeded before.
        trainer: arguments of ``quiet_trainer`` (one epoch on one CPU device by default).
        callbacks: makes callbacks of the user's own, or of ours that the suite does not have.
        fit: arguments of ``Trainer.fit``.
        ends_with: the exception that ends the run by itself, where one does (the sickness is that bad).
    """

    module: Callable[[], pl.LightningModule]
    trainer: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[pl.Callback]] = list
    fit: Mapping[str, Any] = field(default_factory=dict)
    ends_with: type[Exception] | None = None


@dataclass(frozen=True)
class Case:
    """A sick run that gives one code at one place, and its healthy twin, which differs in the sickness alone.

    Attributes:
        code: that the sick run gives, and the healthy one does not, at any severity.
        sick: see :class:`Run`.
        healthy: likewise; gives nothing at warning or above.
        where: ``Finding.where`` of the sick run's finding.
        severity: which it has when the run is over.
        line: a piece of the source line's text that ``Finding.source_line`` points at, where the rule names one.
        also: codes that the sick run rightly gives besides, each with the reason; any other code is a false alarm.
        name: tells cases of one code apart.
        ranks: processes that it takes; with more than one, the tests of its callback run it.
    """

    code: str
    sick: Run
    healthy: Run
    where: str
    severity: str
    line: str | None = None
    also: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    ranks: int = 1

    def __str__(self) -> str:
        return f"{self.code} {self.name}".rstrip()


def case_files() -> list[Path]:
    """The files of cases, ``lt303_dropout_rate.py``; each holds a list ``CASES``."""
    return sorted(HERE.glob("lt[0-9][0-9][0-9]_*.py"))


def cases() -> list[Case]:
    """Every case there is, in the order of the codes."""
    return [case for path in case_files() for case in importlib.import_module(f"tests.cases.{path.stem}").CASES]
