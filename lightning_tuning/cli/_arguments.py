"""The arguments of ``lightning-tuning check``."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_check_arguments"]

_EPILOG = """\
exit status:
  0  nothing at warning or above, and no trial failed
  1  something was found
  2  nothing could be checked: a path, a class, an argument or a data loader is
     missing, or the run broke off with an error

examples:
  lightning-tuning check train:LitNet --data train:Digits --arg lr=0.01
  lightning-tuning check train:LitNet --data train:Digits --arg hidden=[64,64]
  lightning-tuning check --config config.yaml --batches 50 --json

A config is one of LightningCLI. Of it are taken `model`, `data`, and of
`trainer` what changes the numbers of a step; not `optimizer`, `lr_scheduler`,
nor links between arguments that a script makes (`link_arguments`).
`class_path` and `init_args` nest.
"""


def add_check_arguments(commands: Any) -> None:
    """Add the parser of the command to the subparsers ``commands``."""
    check = commands.add_parser(
        "check",
        help="try a LightningModule out on its first batches",
        description="Build a LightningModule, run Preflight and every check on its first batches,\n"
        "and say what was found. Nothing is logged or saved.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("model", nargs="?", metavar="module:Class", help="a LightningModule, or what makes one")
    check.add_argument(
        "--data", metavar="module:Class", help="a LightningDataModule, if the model has no loaders itself"
    )
    check.add_argument(
        "--arg",
        action="append",
        default=[],
        metavar="key=value",
        help="an argument of the model; the value is YAML (0.1, true, [64, 64]), else text. May be repeated",
    )
    check.add_argument(
        "--data-arg", action="append", default=[], metavar="key=value", help="likewise, of the data module"
    )
    check.add_argument("--config", metavar="FILE", help="a config of LightningCLI, instead of or beside the above")
    check.add_argument(
        "--batches", type=_positive, default=5, metavar="N", help="training batches (default: %(default)s)"
    )
    check.add_argument(
        "--max-epochs",
        type=_positive,
        metavar="N",
        help="of the real run: schedules (LT5xx) are judged only if it, or a config's, is known",
    )
    check.add_argument(
        "--max-seconds", type=float, default=120.0, metavar="S", help="for the trials (default: %(default)s)"
    )
    check.add_argument("--accelerator", default="auto", help="as of Trainer (default: %(default)s)")
    check.add_argument("--seed", type=int, default=0, help="of everything (default: %(default)s)")
    check.add_argument(
        "--ignore", nargs="+", default=[], metavar="CODE", help="codes, prefixes, names or globs to drop"
    )
    check.add_argument("--json", action="store_true", help="print verdicts, findings and notes as JSON, nothing else")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
