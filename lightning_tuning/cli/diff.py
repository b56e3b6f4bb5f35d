"""``lightning-tuning diff``: two recorded runs compared."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.console import Console

from lightning_tuning.cli._record import run_with_findings, status_of
from lightning_tuning.findings import Severity
from lightning_tuning.reporters.beside import print_beside_bars
from lightning_tuning.reporters.diff_table import diff_table
from lightning_tuning.reporters.run_diff import compare_runs
from lightning_tuning.reporters.run_folder import NotARunError

__all__ = ["add_diff_arguments", "diff"]

_EPILOG = """\
exit status:
  0  nothing is new, and nothing is worse, at warning or above
  1  something is
  2  the two cannot be compared: one is no folder of a run, or does not say what
     was found

Findings are matched by code and place; lines may have moved. Worse is a higher
severity; the same one 10 % further beyond its threshold; or, where there is none,
twice as often, in all and for the steps. The losses are told and not judged:
another seed moves them as well. A run that was killed is compared as far as it
came.
"""


def add_diff_arguments(commands: Any) -> None:
    """Add the parser of the command to the subparsers ``commands``."""
    command = commands.add_parser(
        "diff",
        help="compare two recorded runs: what is new, gone, worse, better",
        description="Compare the findings and the losses of two recorded runs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("before", metavar="RUN_A", help="the folder of the run to compare with")
    command.add_argument("after", metavar="RUN_B", help="the folder of the run that is judged")
    command.add_argument(
        "--severity",
        choices=[str(severity) for severity in Severity],
        default=str(Severity.WARNING),
        help="findings below it are told and not judged (default: %(default)s)",
    )
    command.add_argument("--json", action="store_true", help="print the comparison as JSON, nothing else")


def diff(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return its exit status."""
    try:
        before, after = run_with_findings(arguments.before), run_with_findings(arguments.after)
    except NotARunError as error:
        sys.stderr.write(f"lightning-tuning: {error}\n")
        return 2
    compared = compare_runs(before, after)
    if arguments.json:
        runs = {
            name: {"folder": str(run.folder), "status": run.info["status"], "problems": list(run.problems)}
            for name, run in (("before", before), ("after", after))
        }
        sys.stdout.write(json.dumps({**runs, **compared.to_dict()}, indent=2) + "\n")
    else:
        console = Console()
        first, second = (f"{run.folder} ({status_of(run)})" for run in (before, after))
        print_beside_bars(console, *diff_table(compared, first, second, console))
    return int(compared.is_worse(Severity.parse(arguments.severity)))
