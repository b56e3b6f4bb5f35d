"""The arguments of ``lightning-tuning check``, ``lr`` and ``replay``."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_check_arguments", "add_lr_arguments", "add_replay_arguments"]

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
  lightning-tuning check train:LitNet --data train:Digits --format sarif > out.sarif

A config is one of LightningCLI. Of it are taken `model`, `data`, and of
`trainer` what changes the numbers of a step; not `optimizer`, `lr_scheduler`,
nor links between arguments that a script makes (`link_arguments`).
`class_path` and `init_args` nest.
"""

_LR_EPILOG = """\
exit status:
  0  a rate is suggested, and a short run at it lowered the loss
  1  none can be: the loss falls at no rate, or no short run lowered it
  2  nothing could be tried: a path, a class, an argument or a data loader is
     missing, or the run broke off with an error

examples:
  lightning-tuning lr train:LitNet --data train:Digits
  lightning-tuning lr train:LitNet --data train:Digits --plot lr.png
  lightning-tuning lr --config config.yaml --max-lr 1 --json

The rate is that of the parameter group that has the largest; the others keep
their ratio to it. A config is taken as `lightning-tuning check` takes it.
"""

_REPLAY_EPILOG = """\
exit status:
  0  reproduced: the same cause in the same operation
  1  it differs: the step is finite now, or another operation is to blame
  2  nothing could be repeated: no such bundle, a damaged or foreign one, another
     model, or a path, a class or an argument is missing

examples:
  lightning-tuning replay bundles/step-00000812-LT701-log-of-zero train:LitNet
  lightning-tuning replay bundles/step-00000812-LT701-log-of-zero train:LitNet \\
      --arg hidden=64
  lightning-tuning replay bundles/step-00000812-LT701-log-of-zero --config config.yaml

Arguments that the model gave to save_hyperparameters are in the bundle and need
not be repeated. Nothing in a bundle is ever executed.
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
    _add_subject_arguments(check, "module:Class", "a LightningDataModule, if the model has no loaders itself")
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
    check.add_argument(
        "--format",
        choices=("text", "json", "sarif"),
        default="text",
        help="json: verdicts, findings and notes; sarif: findings at their source lines, for editors and code review. "
        "Nothing else is on stdout then (default: %(default)s)",
    )
    check.add_argument("--json", action="store_const", const="json", dest="format", help="--format json")


def add_lr_arguments(commands: Any) -> None:
    """Add the parser of the command to the subparsers ``commands``."""
    lr = commands.add_parser(
        "lr",
        help="suggest a learning rate for a LightningModule",
        description="Build a LightningModule, sweep its learning rate over training batches (LRRangeTest),\n"
        "and say at which rates its loss falls. Nothing is logged or saved.",
        epilog=_LR_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_subject_arguments(lr, "module:Class", "a LightningDataModule, if the model has no loaders itself")
    lr.add_argument("--min-lr", type=float, default=1e-7, metavar="LR", help="where to begin (default: %(default)s)")
    lr.add_argument("--max-lr", type=float, default=10.0, metavar="LR", help="where to end (default: %(default)s)")
    lr.add_argument("--steps", type=_positive, default=100, metavar="N", help="of the sweep (default: %(default)s)")
    lr.add_argument(
        "--verify", type=int, default=50, metavar="N", help="steps of a run at the rate; 0: none (default: %(default)s)"
    )
    lr.add_argument("--plot", metavar="FILE", help="draw the sweep into it; needs matplotlib")
    lr.add_argument("--accelerator", default="auto", help="as of Trainer (default: %(default)s)")
    lr.add_argument("--seed", type=int, default=0, help="of everything (default: %(default)s)")
    lr.add_argument("--json", action="store_true", help="print the result as JSON, nothing else")


def add_replay_arguments(commands: Any) -> None:
    """Add the parser of the command to the subparsers ``commands``."""
    replay = commands.add_parser(
        "replay",
        help="repeat the step of a bundle that NanLossGuard wrote",
        description="Put a LightningModule into the state of a bundle, repeat its bad step with every\n"
        "operation watched, and print the verdict beside the recorded one.",
        epilog=_REPLAY_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    replay.add_argument("bundle", metavar="BUNDLE", help="the folder; see NanLossGuard(bundle_dir=...)")
    _add_subject_arguments(replay, "BUNDLE module:Class", "a LightningDataModule, if the model asks for its own")
    replay.add_argument("--accelerator", default="cpu", help="as of Trainer (default: %(default)s)")
    replay.add_argument("--partial", action="store_true", help="go on with a model that has some other parameters")
    replay.add_argument("--json", action="store_true", help="print the verdict as JSON, nothing else")


def _add_subject_arguments(command: argparse.ArgumentParser, usage: str, data: str) -> None:
    """Arguments that name a model and its data."""
    command.set_defaults(usage=usage)
    command.add_argument("model", nargs="?", metavar="module:Class", help="a LightningModule, or what makes one")
    command.add_argument("--data", metavar="module:Class", help=data)
    command.add_argument(
        "--arg",
        action="append",
        default=[],
        metavar="key=value",
        help="an argument of the model; the value is YAML (0.1, true, [64, 64]), else text. May be repeated",
    )
    command.add_argument(
        "--data-arg", action="append", default=[], metavar="key=value", help="likewise, of the data module"
    )
    command.add_argument("--config", metavar="FILE", help="a config of LightningCLI, instead of or beside the above")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
