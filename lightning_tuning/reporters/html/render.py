"""From a run to a page."""

from __future__ import annotations

from lightning_tuning.reporters.run_record import Run

__all__ = ["ReportExtraError", "render_report"]


class ReportExtraError(ImportError):
    """What draws the report is not installed."""


def render_report(run: Run) -> str:
    """The report of a run: one HTML page that needs nothing but itself, neither a network nor a server.

    Findings stand first, worst first, with remedy and reason; then curves, heat maps of the layers, what the suite
    itself cost, the traced model, and the facts of the run. It can be read without JavaScript, but for the plots, whose
    numbers stand in tables beside them. What a run lacks is said in a line.

    A page is some 1 MB, nearly all of it the plotting library (Vega); of 10,000 steps, 200 layers or 3,000 findings
    it stays below 3 MB, for curves and maps are thinned to what a screen can show, and findings beyond 3,000 are
    counted, not listed. It takes some seconds.

    Args:
        run: as :func:`~lightning_tuning.reporters.run_folder.read_run` reads it. Every text in it may be hostile: it is
            shown as it is, and never run.

    Raises:
        ReportExtraError: without the extra ``report``.

    Example:
        >>> from pathlib import Path
        >>> page = render_report(Run(Path("runs/7"), {"status": "finished"}))
        >>> page.splitlines()[0], "No optimizer step was made" in page
        ('<!doctype html>', True)
    """
    try:
        from lightning_tuning.reporters.html._page import page  # noqa: PLC0415  # the extra is needed here alone
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"altair", "jinja2", "markupsafe", "vl_convert"}:
            raise
        raise ReportExtraError(
            f'A report needs {error.name}, which is not installed: `pip install "lightning-tuning[report]"`.',
            name=error.name,
        ) from error
    return page(run)
