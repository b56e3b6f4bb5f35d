"""``lightning-tuning findings``: what was found in a recorded run, for people and programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from lightning_tuning import __version__
from lightning_tuning.cli._record import run_with_findings, status_of
from lightning_tuning.findings import Finding, Severity
from lightning_tuning.reporters.beside import print_beside_bars
from lightning_tuning.reporters.layout import summary
from lightning_tuning.reporters.run_folder import NotARunError
from lightning_tuning.reporters.run_record import Run
from lightning_tuning.reporters.sarif import sarif

__all__ = ["add_findings_arguments", "findings", "markdown_findings"]

_EPILOG = """\
exit status:
  0  nothing at warning or above was found
  1  something was
  2  it is no folder of a run, or does not say what was found
"""


def add_findings_arguments(commands: Any) -> None:
    """Add the parser of the command to the subparsers ``commands``."""
    command = commands.add_parser(
        "findings",
        help="tell what was found in a recorded run",
        description="Tell what was found in a recorded run: one that is over, still going on, or was killed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("run", metavar="RUN", help="the folder of the run")
    command.add_argument(
        "--format",
        choices=("text", "json", "sarif", "markdown"),
        default="text",
        help="sarif: at their source lines, for editors and code review; markdown: a table (default: %(default)s)",
    )
    command.add_argument(
        "--root", default=".", metavar="PATH", help="the folder in which the run was started, for sarif (default: this)"
    )


def findings(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return its exit status."""
    try:
        run = run_with_findings(arguments.run)
    except NotARunError as error:
        sys.stderr.write(f"lightning-tuning: {error}\n")
        return 2
    if arguments.format == "text":
        console = Console()
        print_beside_bars(console, Text(f"{arguments.run}: {status_of(run)}", "dim"))
        print_beside_bars(console, *summary(run.findings, run.notes, Severity.INFO, console, run.diagnosis))
    elif arguments.format == "markdown":
        sys.stdout.write("\n".join(markdown_findings(run.findings)) + "\n")
    else:
        sys.stdout.write(json.dumps(_report(run, arguments), indent=2) + "\n")
    return int(any(finding.severity >= Severity.WARNING for finding in run.findings))


def markdown_findings(found: Iterable[Finding]) -> Iterator[str]:
    """``found`` as the lines of a table in Markdown.

    Example:
        >>> lost = Finding("LT999", "too-much", Severity.INFO, "9 > 3", where="net.0", remedy="less")
        >>> list(markdown_findings([lost]))[-1]
        '| info | LT999 too-much | `net.0` | 9 > 3 | less |'
    """
    yield "| severity | code | where | what | remedy |"
    yield "| --- | --- | --- | --- | --- |"
    for finding in found:
        where = ", ".join(f"`{part}`" for part in (finding.where, finding.source_line) if part) or "the run"
        cells = (str(finding.severity), f"{finding.code} {finding.name}", where, finding.message, finding.remedy)
        yield "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _report(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.format == "sarif":
        nodes = () if run.model is None else run.model.nodes
        home = next((node.source_line for node in nodes if node.source_line), None)  # where the traced step begins
        return sarif(run.findings, Path(arguments.root), home=home, notes=run.notes, version=__version__)
    return {
        "status": run.info["status"],
        "findings": [finding.to_dict() for finding in run.findings],
        "notes": list(run.notes),
        "diagnosis": None if run.diagnosis is None else run.diagnosis.to_dict(),
        "problems": list(run.problems),
    }
