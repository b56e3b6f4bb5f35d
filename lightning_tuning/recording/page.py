"""The report of a run folder, as an HTML file."""

from __future__ import annotations

from pathlib import Path

from lightning_tuning.reporters.html import render_report
from lightning_tuning.reporters.run_folder import read_run
from lightning_tuning.runtime.whole_file import write_text_whole

__all__ = ["write_page"]


def write_page(folder: Path, report: Path) -> None:
    """Read the run in ``folder`` and put its report into the place of ``report``, whole.

    Raises:
        NotARunError: if there is none.
        ReportExtraError: without the extra ``report``.
        OSError: if it cannot be written.
    """
    write_text_whole(report, render_report(read_run(folder)))
