"""The book of one run: takes findings, folds repeats, gates symptoms, tells the reporters, raises when asked."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, NoReturn, get_args

from lightning_tuning.findings._folding import both
from lightning_tuning.findings.causes import GROWN
from lightning_tuning.findings.diagnosis import Diagnose, Diagnosis, TellsDiagnosis
from lightning_tuning.findings.errors import TuningError, TuningWarning, warn_of
from lightning_tuning.findings.finding import Finding, Key, Severity, fold
from lightning_tuning.findings.gate import OutcomeGate, ProgressState
from lightning_tuning.findings.reporter import Reporter
from lightning_tuning.findings.selection import Selection

__all__ = ["Journal", "OnFinding"]

OnFinding = Literal["warn", "raise"]


class Journal:
    """Collects the findings of one run; one journal per owner (a ``Trainer``), shared by all callbacks.

    - :class:`Selection` says which findings are taken at all.
    - Repeats (same code, same place) fold into one finding with a count.
    - The outcome gate: a *symptom* is a warning only once it was reported :data:`PERSISTENCE` times while the run is
      flat or diverging; as long as the run learns, or nobody knows yet, it is held as ``info`` and judged again by
      :meth:`rejudge`. *Advice* is not heard at all before that.
    - ``on_finding="warn"`` gives each finding of severity ``warning`` and above once as a :class:`TuningWarning`
      (a reporter that shows it to a person replaces Python's own display, not the warning: filters, ``-W error`` and
      ``catch_warnings`` see it all the same); ``"raise"`` raises it as :class:`TuningError`.

    Example:
        >>> from lightning_tuning.findings import Rule, Severity
        >>> rule = Rule("LT999", "too-much", Severity.INFO, "fact", why="It is.", remedy="Less.", source="Measured.")
        >>> journal = Journal()
        >>> for step in (3, 7):
        ...     journal.report(rule.finding("9 > 3", where="net.0"), step=step)
        >>> [(f.code, f.count, f.steps()) for f in journal.findings]
        [('LT999', 2, 'x2, steps 3-7')]
    """

    _by_owner: ClassVar[weakref.WeakKeyDictionary[object, Journal]] = weakref.WeakKeyDictionary()

    def __init__(
        self,
        select: Iterable[str] | None = None,
        ignore: Iterable[str] | None = None,
        on_finding: OnFinding = "warn",
        rank: int = 0,
    ) -> None:
        self._folded: dict[Key, Finding] = {}
        self._announced: dict[Key, Severity] = {}
        self._gate = OutcomeGate()
        self._pending: Finding | None = None
        self.notes: list[str] = []
        self.reporters: list[Reporter] = []
        self.rank = rank
        self.raise_together = False
        self.diagnose: Diagnose | None = None
        self.diagnosis: Diagnosis | None = None
        self.configure(select=select, ignore=ignore, on_finding=on_finding)

    @classmethod
    def of(cls, owner: object) -> Journal:
        """The journal of ``owner`` (a ``Trainer``), made on first use; it lives as long as its owner."""
        return cls._by_owner.setdefault(owner, cls())

    def configure(
        self,
        *,
        select: Iterable[str] | None = None,
        ignore: Iterable[str] | None = None,
        on_finding: OnFinding = "warn",
        per_path_ignores: Mapping[str, Iterable[str]] | None = None,
        severity: Mapping[str, str] | None = None,
    ) -> None:
        """Set what is taken and what happens then; see the class.

        Args:
            select: see :class:`Selection`; by default all is taken as it is.
            ignore: likewise.
            per_path_ignores: likewise.
            severity: likewise.
            on_finding: ``"warn"`` (default: a linter must not end a run that its user did not ask it to end) or
                ``"raise"``.

        Raises:
            ValueError: for any other ``on_finding``, or what :class:`Selection` refuses.
        """
        if on_finding not in get_args(OnFinding):
            raise ValueError(f"`on_finding` must be one of {get_args(OnFinding)}, got {on_finding!r}.")
        self.selection = Selection(select, ignore, per_path_ignores, severity)
        self.on_finding: OnFinding = on_finding

    @property
    def findings(self) -> list[Finding]:
        """Everything found so far and not withheld, worst first, then in the order of the codes."""
        said = [finding for key, finding in self._folded.items() if key in self._announced]
        return sorted(said, key=lambda f: (-f.severity, f.code, f.step or 0, f.where))

    def begin(self) -> None:
        """A new run of the same owner: forget the findings and notes of the last one; configuration stays."""
        self._folded.clear()
        self._announced.clear()
        self._gate = OutcomeGate()
        self.notes.clear()
        self._pending = None
        self.diagnose = self.diagnosis = None

    def report(
        self, finding: Finding, *, step: int | None = None, epoch: int | None = None, once: bool = False
    ) -> None:
        """Take ``finding``; fold, gate, tell, and raise if that was asked for.

        Args:
            finding: as a rule made it.
            step: ``trainer.global_step``.
            epoch: ``trainer.current_epoch``.
            once: a repeat is dropped instead of counted, for facts that a resumed run sees again.

        Raises:
            TuningError: with ``on_finding="raise"`` and a severity (after the gate) of warning or above. Where ranks
                have to raise together (``raise_together``) it waits for :meth:`take_pending` instead.
        """
        known, taken = self._folded.get(finding.key), self.selection.taken(finding)
        if taken is None or (known is not None and once):
            return
        finding = taken
        self._gate.take(finding, stands=once)
        folded = dataclasses.replace(
            finding,
            step=step if finding.step is None else finding.step,
            last_step=step if step is not None or known is None else known.last_step,
            epoch=epoch,
            rank=self.rank,
        )
        folded = folded if known is None else fold(known, folded)
        severity = self._gate.severity(folded)
        self._folded[finding.key] = folded = dataclasses.replace(
            folded, severity=max(severity, known.severity) if known else severity
        )
        self._announce(folded)

    def fail(self, finding: Finding, *, step: int | None = None, epoch: int | None = None) -> NoReturn:
        """Record and tell ``finding``, then raise it whatever ``on_finding`` says; for whose own action is to raise.

        If the run broke by what had grown in it, the symptoms held until then explain it, and are told as well.

        Raises:
            TuningError: always, on this rank, now; the caller sees to it that the other ranks do the same.
        """
        finding = dataclasses.replace(finding, step=step, last_step=step, epoch=epoch, rank=self.rank)
        if finding in self.selection:
            known = self._folded.get(finding.key)
            self._folded[finding.key] = finding if known is None else fold(known, finding)
            self._announced[finding.key] = finding.severity
            self._gate.take(finding)
            if self.rank == 0:
                for reporter in self.reporters:
                    reporter.finding(finding)
        if finding.evidence.get("cause") in GROWN:
            with contextlib.suppress(TuningError, TuningWarning):  # what is raised is this finding
                self.rejudge("diverging")
        raise TuningError(finding.text(silence=False), finding)

    def rejudge(self, progress: ProgressState) -> None:
        """Judge held symptoms again now that the run's progress reads ``progress``."""
        if not self._gate.move(progress):
            return
        for key, finding in list(self._folded.items()):
            severity = max(finding.severity, self._gate.severity(finding))
            self._folded[key] = dataclasses.replace(finding, severity=severity)
            self._announce(self._folded[key])

    def note(self, sentence: str) -> None:
        """Record what a guard or treatment did, for the closing summary."""
        self.notes.append(sentence)

    def take_pending(self) -> Finding | None:
        """The finding that waits to be raised on all ranks together, if any; it waits no longer."""
        pending, self._pending = self._pending, None
        return pending

    def merge(self, others: Iterable[Finding]) -> None:
        """Take the findings of other ranks in, folding those that are already here."""
        for other in others:
            known = self._folded.get(other.key)
            self._announced.setdefault(other.key, other.severity)
            if known is None:
                self._folded[other.key] = other
            elif other.rank != known.rank:
                self._folded[other.key] = both(known, other)

    def close(self) -> None:
        """Tell the reporters, on rank 0, that the run is over; and how it went wrong, if ``diagnose`` knows."""
        self._gate.is_over = True
        for finding in self._folded.values():
            self._announce(finding)
        self.diagnosis = None if self.diagnose is None else self.diagnose(self.findings, self._gate.progress)
        if self.rank == 0:
            for reporter in reversed(self.reporters):  # the first, a person's, has the notes of the others to sum up
                if self.diagnosis is not None and isinstance(reporter, TellsDiagnosis):
                    reporter.diagnosis(self.diagnosis)
                reporter.close(self.findings, self.notes)

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {
            "findings": [f.to_dict() for f in self._folded.values()],
            "announced": [[*key, int(severity)] for key, severity in self._announced.items()],
            "gate": self._gate.state_dict(),
            "notes": list(self.notes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the findings of an earlier part of the same run; what was announced is not announced again.

        A checkpoint holds what rank 0 knew; the other ranks begin with no findings of their own.
        """
        if self.rank != 0:
            return
        found = [finding for finding in map(Finding.from_dict, state["findings"]) if finding in self.selection]
        self._folded = {finding.key: finding for finding in found}
        self._announced = {(code, where, line): Severity(level) for code, where, line, level in state["announced"]}
        self._gate.load_state_dict(state["gate"])
        self.notes[:] = state["notes"]

    def withheld(self) -> list[Finding]:
        """Advice that nobody has heard so far."""
        return [finding for key, finding in self._folded.items() if key not in self._announced]

    def _announce(self, finding: Finding) -> None:
        if finding.severity <= self._announced.get(finding.key, 0) or self._gate.withholds(finding):
            return
        self._announced[finding.key] = finding.severity
        told = [reporter.finding(finding) for reporter in self.reporters] if self.rank == 0 else []
        if finding.severity < Severity.WARNING:
            return
        if self.on_finding == "raise":
            if self.raise_together:
                self._pending = self._pending or finding
                return
            raise TuningError(finding.text(), finding)
        if self.rank == 0:
            warn_of(finding, displayed=any(told))
