"""``lightning-tuning run``: a training script, unmodified, with the suite attached and a record kept."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_tuning.cli._config import UsageError, scalar
from lightning_tuning.findings.run_order import RunOrder
from lightning_tuning.findings.settings import ENVIRONMENT

__all__ = ["run", "settings_of"]

_NESTED = {"per_path_ignores": 1, "severity": 1, "options": 2, "thresholds": 2}
"""How many names stand between a table and its values; the last one may have dots of its own."""


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks: where there are such, this process becomes that of the script.

    So its process number, its signals, its terminal and its exit status are those it would have had without us, and
    ``__main__``, ``sys.argv`` and ``sys.path`` are as Python makes them; Lightning starts the other processes of a
    run by the same command line.
    """
    try:
        command = _command(arguments)
        settings, word = settings_of(arguments.select, arguments.ignore, arguments.setting)
    except UsageError as error:
        sys.stderr.write(f"lightning-tuning: {error}\n")
        return 2
    order = RunOrder(str(Path(arguments.run_dir).absolute()), settings)
    environment = {**os.environ, **order.environment()}
    if word is not None:
        environment[ENVIRONMENT] = word
    sys.stdout.flush()
    if os.name == "posix":
        os.execve(sys.executable, command, environment)  # noqa: S606  # the user's own script
    return subprocess.call(command, env=environment)  # noqa: S603  # likewise; Windows has no exec that waits


def settings_of(
    select: Iterable[str], ignore: Iterable[str], settings: Iterable[str]
) -> tuple[dict[str, Any], str | None]:
    """The table that the options of the command line say, and what stands for the environment variable.

    Example:
        >>> settings_of([], ["LT3,LT4", "encoder.*"], ["severity.LT901=error", "thresholds.LT601.ratio=20"])[0]
        {'ignore': ['LT3', 'LT4', 'encoder.*'], 'severity': {'LT901': 'error'}, 'thresholds': {'LT601': {'ratio': 20}}}
        >>> settings_of([], [], ["check-only", "report="])
        ({'report': ''}, 'check-only')
    """
    table: dict[str, Any] = {}
    for name, patterns in (("select", select), ("ignore", ignore)):
        if some := [pattern.strip() for text in patterns for pattern in text.split(",") if pattern.strip()]:
            table[name] = some
    words = [text for text in settings if "=" not in text]
    for text in settings:
        key, equals, value = text.partition("=")
        if equals:
            _put(table, key, scalar(value) if value else "")
    if any(word.endswith((".yaml", ".yml")) for word in words):
        words = [str(Path(word).absolute()) for word in words]  # the script may go elsewhere
    return table, ",".join(words) if words else None


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    """What makes no sense is kept: it is refused where the settings are read, like that of a file."""
    depth = _NESTED.get(key.split(".", maxsplit=1)[0].replace("-", "_"), 0)
    *names, last = key.split(".", depth)
    for name in names:
        if not isinstance(table.get(name), dict):
            table[name] = {}
        table = table[name]
    table[last] = value


def _command(arguments: argparse.Namespace) -> list[str]:
    script = arguments.script
    if not script:
        raise UsageError("`run` needs a script, or -m and a module: lightning-tuning run train.py --epochs 3")
    if arguments.is_module:
        return [sys.executable, "-m", *script]
    if script[0].startswith("-"):
        raise UsageError(f"`run` has no option {script[0]!r}; its own go before the script.")
    if not Path(script[0]).exists():
        raise UsageError(f"there is no script {script[0]!r}.")
    return [sys.executable, *script]
