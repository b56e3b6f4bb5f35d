"""How a command that runs a user's code ends."""

from __future__ import annotations

import argparse
import contextlib
import sys
import traceback
from collections.abc import Callable
from typing import TypeVar

from lightning_tuning.cli._config import UsageError

__all__ = ["outcome_of"]

T = TypeVar("T")


def outcome_of(
    run: Callable[[argparse.Namespace], T], arguments: argparse.Namespace, *, undone: str, is_for_programs: bool
) -> T | None:
    """What ``run(arguments)`` gives; ``None`` if it broke off, which is said on stderr: the exit status is 2 then.

    Args:
        run: may raise anything, as the user's code in it may.
        arguments: of the command line.
        undone: what has not been done then, ``"nothing was checked"``.
        is_for_programs: stdout is for JSON; what ``run`` prints goes to stderr.
    """
    with contextlib.redirect_stdout(sys.stderr) if is_for_programs else contextlib.nullcontext():
        try:
            return run(arguments)
        except UsageError as error:
            sys.stderr.write(f"lightning-tuning: {error}\n")
        except (Exception, SystemExit) as error:  # noqa: BLE001  # the user's code may raise anything; Ctrl-C is one too
            traceback.print_exc(file=sys.stderr)
            sys.stderr.write(f"lightning-tuning: the run broke off with {type(error).__name__}; {undone}.\n")
    return None
