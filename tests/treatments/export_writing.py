"""A process that writes an export over an older one, and is killed at a given point of it."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from lightning_tuning.findings.whole_file import write_whole
from lightning_tuning.functional import state_file
from lightning_tuning.functional.state_file import write_pth, write_safetensors


def state(fill: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((200, 100), fill), "bias": torch.full((100,), fill)}


def write(path: Path, fill: float) -> None:
    to_file: Callable[[Path, Any], None] = write_safetensors if path.suffix == ".safetensors" else write_pth
    write_whole(path, lambda draft: to_file(draft, state(fill)))


def write_and_die(path: Path, point: int) -> None:
    """Overwrite ``path``, up to a point at which the process ends by SIGKILL; exit status 7 if there is no such one."""
    passed = itertools.count()

    def reach() -> None:
        if next(passed) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def between(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def stopping(*args: Any, **kwargs: Any) -> Any:
            reach()
            result = function(*args, **kwargs)
            reach()
            return result

        return stopping

    def halves(function: Callable[..., Any], place: int) -> Callable[..., Any]:
        """Half of the file is there, then all of it."""

        @wraps(function)
        def stopping(*args: Any, **kwargs: Any) -> Any:
            function(*args, **kwargs)
            draft = Path(args[place])
            whole = draft.read_bytes()
            draft.write_bytes(whole[: len(whole) // 2])
            reach()
            draft.write_bytes(whole)
            reach()

        return stopping

    torch.save = halves(torch.save, 1)
    state_file.save_file = halves(state_file.save_file, 1)  # type: ignore[attr-defined]
    os.fsync = between(os.fsync)
    Path.replace = between(Path.replace)  # type: ignore[method-assign]
    write(path, 2.0)
    os._exit(7)


if __name__ == "__main__":  # each point in a child of its own: importing torch takes seconds, a fork none
    torch.set_num_threads(1)
    path = Path(sys.argv[1])
    for point in itertools.count():
        child = os.fork()
        if child == 0:
            try:
                write_and_die(path.parent / f"{point}" / path.name, point)
            except BaseException:  # noqa: BLE001  # a child must not run on into what its parent does next
                traceback.print_exc()
            os._exit(1)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os.write(1, f"{code}\n".encode())
        if code >= 0:
            break
