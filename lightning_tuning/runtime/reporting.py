"""To whom findings are told where nobody says otherwise: the terminal, and the loggers of the run."""

from __future__ import annotations

import functools
from typing import Any

from lightning.pytorch import Trainer

from lightning_tuning.findings import Journal
from lightning_tuning.measure import Meter
from lightning_tuning.reporters import TerminalReporter
from lightning_tuning.runtime.logger_reporter import LoggerReporter
from lightning_tuning.runtime.sparing import SparingLogger

__all__ = ["configure", "report_by_default"]


def report_by_default(trainer: Trainer, journal: Journal) -> None:
    """Give ``journal`` its reporters, unless it has some: who put them there wants those and no others.

    A failure of one of ``trainer``'s loggers at our hands is noted in ``journal`` from now on.
    """
    Meter.of(trainer).outlet.spare = functools.partial(SparingLogger, journal)
    if not journal.reporters:
        journal.reporters += [TerminalReporter(), LoggerReporter(trainer, journal)]


def configure(journal: Journal, *, log_findings: bool = True, **settings: Any) -> None:
    """:meth:`Journal.configure`, and whether findings go to the loggers.

    Args:
        journal: with the reporters of :func:`report_by_default`, or others.
        log_findings: whether the :class:`LoggerReporter` among them is to say anything.
        settings: arguments of :meth:`Journal.configure`.

    Raises:
        ValueError: for a ``log_findings`` that is no truth value, and what :meth:`Journal.configure` refuses.

    Example:
        >>> configure(Journal(), log_findings="no")
        Traceback (most recent call last):
        ...
        ValueError: `log_findings` must be True or False, got 'no'.
    """
    if not isinstance(log_findings, bool):
        raise ValueError(f"`log_findings` must be True or False, got {log_findings!r}.")
    journal.configure(**settings)
    for reporter in journal.reporters:
        if isinstance(reporter, LoggerReporter):
            reporter.is_on = log_findings
