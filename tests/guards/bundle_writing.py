"""A process that trains until its guard is about to write a bundle, and forks there: each child stops at another point.

Starting a process and importing torch takes seconds, a fork none; so one nursery serves all.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from functools import wraps
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lightning_tuning import NanLossGuard, TuningError
from lightning_tuning.guards._bundle_writer import BundleWriter
from lightning_tuning.guards.bundle import _state
from tests.guards.faulty import FaultyMlp
from tests.helpers import quiet_trainer


def nursery(asked: Connection) -> None:
    """For each (folder, point) received: fork, send the child's id, what it said, and how it ended.

    The child says ``b"."`` at its point and waits there for its end, or how many points it passed if it came through.
    """
    torch.set_num_threads(1)  # so that there is no other thread to be lost in a fork
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    write = BundleWriter.answer

    def answer(self: BundleWriter, *incident: Any) -> str:
        for folder, point in iter(asked.recv, None):
            ready, tell = os.pipe()
            child = os.fork()
            if child == 0:
                self.bundle_dir = Path(folder)
                _stop_at(point, tell, lambda: write(self, *incident))
            os.close(tell)
            asked.send(child)
            asked.send(os.read(ready, 16))
            asked.send(os.waitpid(child, 0)[1])
            os.close(ready)
        os._exit(0)

    BundleWriter.answer = answer  # type: ignore[method-assign]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(TuningError):
        quiet_trainer(callbacks=[NanLossGuard(bundle_dir="bundles")]).fit(FaultyMlp({1: "log"}))


def _stop_at(point: int, tell: int, write: Callable[[], object]) -> None:
    """Write, up to a point; the process does not come back from here."""
    passed = itertools.count()
    code = 1
    try:

        def reach() -> None:
            if next(passed) == point:
                os.write(tell, b".")
                signal.pause()

        # What the writer does to the disk, each with a point before and one after it.
        for home, name in ((os, "mkdir"), (os, "fsync"), (os, "rename"), (os, "unlink"), (torch, "save")):
            setattr(home, name, _between(reach, getattr(home, name)))
        _state.save_file = _between(reach, _state.save_file)
        Path.write_text = _between(reach, Path.write_text)  # type: ignore[method-assign]
        write()
        os.write(tell, str(next(passed)).encode())
        code = 0
    except BaseException:  # noqa: BLE001  # a child must not run on into what its parent does next
        traceback.print_exc()
    finally:
        os._exit(code)


def _between(reach: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def stopping(*args: Any, **kwargs: Any) -> Any:
        reach()
        result = function(*args, **kwargs)
        reach()
        return result

    return stopping
