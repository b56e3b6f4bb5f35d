"""What commands on recorded runs share."""

from __future__ import annotations

import sys

from lightning_tuning.reporters.loss_ends import steps_of
from lightning_tuning.reporters.run_folder import FINDINGS, NotARunError, read_run
from lightning_tuning.reporters.run_record import Run

__all__ = ["run_with_findings", "status_of"]


def run_with_findings(folder: str) -> Run:
    """The run of ``folder``; what could not be read of it is said on stderr.

    Raises:
        NotARunError: if it holds no run, or none that says what was found in it.
    """
    run = read_run(folder)
    if not (run.folder / FINDINGS).is_file():
        raise NotARunError(f"`{folder}` has no {FINDINGS}: what was found in this run is not known.")
    for problem in run.problems:
        sys.stderr.write(f"lightning-tuning: {folder}: {problem}\n")
    return run


def status_of(run: Run) -> str:
    """How the run ended, if it did, and after how many steps: ``"finished, 300 steps"``."""
    status, steps = str(run.info["status"]), steps_of(run)
    told = "still running, or killed" if status == "running" else status
    return f"{told}, {steps} step{'' if steps == 1 else 's'}" if steps else told
