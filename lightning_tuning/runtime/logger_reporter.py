"""Findings in the loggers of a run, beside its numbers."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from lightning.pytorch import Trainer

from lightning_tuning.findings import Diagnosis, Finding, Journal, Verdict
from lightning_tuning.measure import Meter
from lightning_tuning.reporters.markdown import summary_markdown
from lightning_tuning.reporters.words import counts
from lightning_tuning.runtime.logger_forms import Page, tell
from lightning_tuning.runtime.sparing import Sparing

__all__ = ["LoggerReporter"]


class LoggerReporter:
    """Tells the loggers of a trainer each finding as it comes, and all of them when the run is over.

    What a logger is given is up to its kind, see :func:`~lightning_tuning.runtime.logger_forms.tell`. Every kind gets
    the numbers ``tuning/findings/error``, ``tuning/findings/warning`` and ``tuning/findings/info``: how many there are
    so far, at each finding and at the end, zeros too. Nothing is sent but by rank 0. A logger that fails is noted in
    the journal; neither the run nor the other loggers are touched.

    A trainer's desk attaches one, beside a :class:`TerminalReporter`, unless the journal has reporters by then: who
    names some, and wants loggers told as well, names this one too. It keeps no file and no handle, and asks the trainer
    for its loggers each time.

    Args:
        trainer: of the run.
        journal: of the same run; its findings and notes are what is told.

    Attributes:
        is_on: whether anything is sent; of one run, the next begins with ``True``.

    Example:
        >>> from lightning.pytorch.loggers import CSVLogger
        >>> trainer = Trainer(logger=CSVLogger("."), accelerator="cpu")
        >>> journal = Journal.of(trainer)
        >>> journal.reporters += [LoggerReporter(trainer, journal)]  # and nobody else: the terminal stays silent
    """

    def __init__(self, trainer: Trainer, journal: Journal) -> None:
        self.is_on = True
        # Both live by the trainer: a reporter that held them would keep it alive for good.
        self._trainer: Trainer = weakref.proxy(trainer)
        self._journal: Journal = weakref.proxy(journal)
        self._outlet = Meter.of(trainer).outlet
        self._diagnosis: Diagnosis | None = None
        self._verdicts: Sequence[Verdict] = ()

    def finding(self, finding: Finding) -> bool:
        """Send it on; ``False``, since nobody looks at a logger in that moment."""
        with Sparing(self._journal, self):
            self._tell(finding)
        return False

    def diagnosis(self, diagnosis: Diagnosis) -> None:
        """Keep it for the summary."""
        self._diagnosis = diagnosis

    def verdicts(self, verdicts: Sequence[Verdict], suspects: Sequence[Finding]) -> None:
        """Keep them for the summary; the suspects are among the findings."""
        self._verdicts = list(verdicts)

    def close(self, findings: Sequence[Finding], notes: Sequence[str]) -> None:
        """Send the summary; the next run of this trainer starts anew."""
        with Sparing(self._journal, self):
            self._tell(None)
        self._diagnosis, self._verdicts, self.is_on = None, (), True

    def _tell(self, finding: Finding | None) -> None:
        if not (self.is_on and self._trainer.loggers and self._trainer.is_global_zero):
            return
        findings = self._journal.findings
        text = summary_markdown(findings, self._journal.notes, self._diagnosis, self._verdicts)
        page = Page(self._outlet.now, findings, text, finding)
        for logger in self._trainer.loggers:
            with self._outlet.spare(logger):
                tell(logger, page)
        self._outlet.log({f"tuning/findings/{severity}": float(count) for severity, count in counts(findings).items()})
