"""The record of one run: its folder, and what is on the way into it."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from lightning_tuning.recording._facts import model_facts, trainer_facts, versions
from lightning_tuning.recording._findings_lines import FindingsLines
from lightning_tuning.recording._folder import RunFiles
from lightning_tuning.recording.page import write_page
from lightning_tuning.runtime import Desk

__all__ = ["Record"]

_TOGETHER = 20
"""Lines that are written at once."""
_WAIT = 1.0
"""Seconds after which all lines are written with the next reading, however few they are."""


class Record:
    """Lines and facts of a run, on rank 0 written to its folder.

    Args:
        trainer: of the run, or a weak proxy of it.
        desk: of ``trainer``.
        findings: has the findings.
        folder: see :class:`RunFiles`.
        report: likewise.
        run: likewise; may be set to that of the checkpoint until the files are open.

    Attributes:
        files: once they are open; on rank 0 alone.
        info: ``run.json``.
        is_over: the run has ended.
    """

    def __init__(
        self, trainer: Trainer, desk: Desk, findings: FindingsLines, *, folder: Path, report: Path | None, run: str
    ) -> None:
        self._trainer, self._desk, self._findings = trainer, desk, findings
        self._folder, self._report, self.run = folder, report, run
        self.files: RunFiles | None = None
        self.info: dict[str, Any] = {"status": "running"}
        self.is_over = False
        self._lines: list[dict[str, Any] | str] = []
        self._began, self._written = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """Since the beginning of the run, with its earlier parts."""
        return time.monotonic() - self._began

    def open(self) -> None:
        """Claim the folder, if that was not done yet, and write down which run this is."""
        if self.files is not None or not self._trainer.is_global_zero:
            return
        files = self.files = RunFiles(self._folder, self._report, self.run)
        self._began = time.monotonic() - files.seconds
        self._findings.open(files.findings)
        self.info |= {"id": self.run, "started": files.began.get("started", _now()), "versions": versions()}
        if files.goes_on:
            files.readings.add({"kind": "resumed", "step": self._trainer.global_step})
        if (pl_module := self._trainer.lightning_module) is not None:
            self.info["model"] = model_facts(pl_module)
        self.write_run()

    def put(self, line: dict[str, Any] | str) -> None:
        """A line of readings, to be written with others."""
        self._lines.append(line)

    def flush_if_due(self, seconds: float) -> None:
        """Write the lines if they are many, or the last writing a second ago, at so many :attr:`seconds`."""
        if len(self._lines) >= _TOGETHER or seconds - self._written >= _WAIT:
            self.flush()

    def flush(self) -> None:
        """Hand all lines to the operating system."""
        self._written = self.seconds
        lines, self._lines = self._lines, []  # on a full disk they are lost, and not kept for ever
        if self.files is not None:
            self.files.readings.add(*lines)

    def write_run(self) -> None:
        """``run.json`` as things stand."""
        if self.files is None:
            return
        if not self.is_over:  # the trainer may be gone by then
            self.info["trainer"] = trainer_facts(self._trainer)
            self.info["progress"] = self._desk.progress.state
        self.files.write_run(self.info)

    def write(self) -> Path | None:
        """All that is known, and the report, if there is to be one: where it lies."""
        if self.files is None:
            return None
        self.flush()
        self.write_run()
        if self.files.report is not None:
            write_page(self.files.folder, self.files.report)
        return self.files.report

    def finish(self, error: BaseException | None) -> Path | None:
        """The run has ended, by ``error`` or by itself: write all that is left. Where the report lies."""
        self.open()
        self.info |= {"status": _status(error), "ended": _now()}
        if error is not None:
            self.info["error"] = f"{type(error).__name__}: {error}".strip().removesuffix(":")
        self.write_run()
        self.is_over = True
        try:
            return self.write()
        finally:
            if self.files is not None:
                self.files.close()


def _status(error: BaseException | None) -> str:
    if error is None:
        return "finished"
    return "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"


def _now() -> str:
    return dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
