"""The arguments of ``lightning-tuning run`` and ``report``."""

from __future__ import annotations

import argparse
from typing import Any

from lightning_tuning.findings.run_order import REPORT

__all__ = ["add_report_arguments", "add_run_arguments"]

_RUN_EPILOG = """\
The script is run by this Python as it is: with its own arguments, exit status,
signals and processes. Every Trainer in it gets the suite, and keeps a folder of
its own (tuning_run, tuning_run-2, ...) with what was found and measured, and a
report. A suite that the script attaches itself stays; what it leaves open is taken
from here.

Settings come first from here, then from LIGHTNING_TUNING, then from the table
[tool.lightning-tuning] of pyproject.toml, key by key. One that is wrong is
warned of; the training goes on.

exit status:
  that of the script; 2 if there is none to run

examples:
  lightning-tuning run train.py --epochs 3
  lightning-tuning run --ignore LT301,LT9 --run-dir runs/a -m project.train
  lightning-tuning run --setting on-finding=raise --setting check-only train.py
  lightning-tuning run --setting thresholds.LT601.ratio=20 train.py
"""

_REPORT_EPILOG = """\
The run may be over, still going on, or have been killed: the report shows how far
it came.

exit status:
  0  the report is written
  2  it is not: no run lies there, or it cannot be written

examples:
  lightning-tuning report tuning_run
  lightning-tuning report tuning_run --output run.html --open
"""


def add_run_arguments(commands: Any) -> None:
    """Declare ``run`` among the subcommands."""
    parser = commands.add_parser(
        "run",
        help="run a training script with the suite attached, and keep a record of it",
        usage="lightning-tuning run [options] (SCRIPT | -m MODULE) [ARGUMENT ...]",
        description="Run a training script, unmodified, with the suite attached, and keep a record of every run in it.",
        epilog=_RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run-dir", default="tuning_run", metavar="DIR", help="for the record; default: %(default)s")
    for option, what in (("--select", "taken (default: everything)"), ("--ignore", "dropped")):
        parser.add_argument(
            option, action="append", default=[], metavar="CODES",
            help=f"what is {what}: codes, prefixes, names or globs on module paths, with commas; may be repeated",
        )  # fmt: skip
    parser.add_argument(
        "--setting", action="append", default=[], metavar="KEY=VALUE",
        help="a key of [tool.lightning-tuning], nested by dots; or what LIGHTNING_TUNING takes instead of its value: "
        "check-only, off (the record alone), a YAML file. May be repeated",
    )  # fmt: skip
    parser.add_argument("-m", dest="is_module", action="store_true", help="SCRIPT is a module, as in `python -m`")
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT", help="with its own arguments")


def add_report_arguments(commands: Any) -> None:
    """Declare ``report`` among the subcommands."""
    parser = commands.add_parser(
        "report",
        help="make the HTML report of a run folder",
        description="Make the report of a run folder: one HTML file that needs nothing else.",
        epilog=_REPORT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="RUN_DIR", help="as `lightning-tuning run` or a TuningReport leaves it")
    parser.add_argument("--output", metavar="FILE", help=f"default: {REPORT} in that folder")
    parser.add_argument("--open", action="store_true", help="and show it in the browser")
