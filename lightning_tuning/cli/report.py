"""``lightning-tuning report``: the page of a run folder, of a run that is over, goes on, or was killed."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path

from lightning_tuning.findings.run_order import REPORT
from lightning_tuning.findings.whole_file import write_text_whole
from lightning_tuning.reporters.html import ReportExtraError, render_report
from lightning_tuning.reporters.run_folder import NotARunError, read_run
from lightning_tuning.reporters.run_record import Run

__all__ = ["report"]

_STATUS = {
    "running": "not over: still going on, or killed",
    "interrupted": "interrupted",
    "failed": "broken off by an error",
}


def report(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return its exit status."""
    folder = Path(arguments.folder)
    output = folder / REPORT if arguments.output is None else Path(arguments.output)
    try:
        run = read_run(folder)
        write_text_whole(output, render_report(run))
    except NotARunError as error:
        return _complain(f"{error}{_runs_in(folder)}")
    except ReportExtraError as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(f"the report cannot be written to `{output}`: {error.strerror or error}.")
    for problem in run.problems:
        sys.stderr.write(f"lightning-tuning: {problem}\n")
    sys.stdout.write(f"{output}: {_summary(run)}\n")
    if arguments.open and not webbrowser.open(output.resolve().as_uri()):
        return _complain(f"no browser was found to open `{output}`; the report is written.", status=0)
    return 0


def _summary(run: Run) -> str:
    steps = sum(block.count for block in run.blocks)
    count = len(run.findings)
    status = _STATUS.get(str(run.info["status"]))
    parts = [f"{count or 'no'} finding{'s' * (count != 1)}", f"{steps} steps"]
    return ", ".join(parts) + (f"; the run is {status}" if status else "")


def _runs_in(folder: Path) -> str:
    """Of a folder that is above those of runs."""
    if not folder.is_dir():
        return ""
    runs = sorted(str(path.parent) for path in folder.glob("*/run.json"))
    return f" Runs lie in {', '.join(runs)}." if runs else ""


def _complain(sentence: str, status: int = 2) -> int:
    sys.stderr.write(f"lightning-tuning: {sentence}\n")
    return status
