"""Two real processes on gloo: ``on_two_ranks(function, *args)`` gives what the function returned on each.

``strategy="ddp_spawn"`` runs the ranks too, but keeps what they know, and in them Lightning calls no ``on_exception``.
Here every rank runs a ``Trainer`` of its own, with ``strategy=gloo()``, as a launched script would.
"""

from __future__ import annotations

import datetime as dt
import os
import socket
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch.strategies import DDPStrategy

PATIENCE = 240
"""Seconds until the pair is taken for hanging; it needs some ten."""


def gloo() -> DDPStrategy:
    """The strategy for a trainer with ``devices=2`` inside of :func:`on_two_ranks`."""
    return DDPStrategy(process_group_backend="gloo", timeout=dt.timedelta(seconds=60))


def on_two_ranks(function: Callable[..., Any], *args: Any) -> list[Any]:
    """``function(rank, *args)`` on both ranks; it has to be at the top of a module, and its result to be picklable."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        context = mp.spawn(_entry, (port, folder, function, args), nprocs=2, join=False)
        deadline = time.monotonic() + PATIENCE
        while not context.join(timeout=1):
            if time.monotonic() > deadline:
                for process in context.processes:
                    process.kill()
                pytest.fail("the ranks wait for each other")
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(2)]


def _entry(rank: int, port: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE="2", GROUP_RANK="0", TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    os.chdir(folder)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.save(function(rank, *args), Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()
