"""SIGKILL at every point of writing a bundle: no half one is ever read, and the next run clears up."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch.multiprocessing as mp

from lightning_tuning import NanLossGuard
from lightning_tuning.guards.bundle import BundleError, read_bundle
from lightning_tuning.guards.bundle._folder import clean_up
from tests.guards.bundle_writing import nursery
from tests.guards.faulty import FaultyMlp
from tests.helpers import quiet_trainer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked at the point of death")

HERE = Path("bundles")
PATIENCE = 120  # seconds


@pytest.fixture(scope="module")
def asked() -> Iterator[Connection]:
    here, there = mp.Pipe()
    process = mp.get_context("spawn").Process(target=nursery, args=(there,))
    process.start()
    there.close()  # so that the end of the nursery is seen here
    yield here
    with contextlib.suppress(OSError):
        here.send(None)
    process.join(10)
    if process.is_alive():
        process.kill()


def answer(asked: Connection) -> object:
    assert asked.poll(PATIENCE), "the child hangs"
    return asked.recv()


def start(asked: Connection, folder: Path, point: int) -> tuple[int, bytes]:
    """A child that trains and writes into ``folder``; its id, and what it says at the point."""
    asked.send((str(folder.absolute()), point))
    child, said = answer(asked), answer(asked)
    assert isinstance(child, int)
    assert isinstance(said, bytes)
    return child, said


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def test_killed_anywhere(asked: Connection) -> None:
    HERE.mkdir()
    _, said = start(asked, HERE / "whole", -1)
    assert answer(asked) == 0
    points = int(said)
    assert points > 40  # two for each call that touches the disk
    ends = []
    for point in range(points):
        folder = HERE / str(point)
        child, said = start(asked, folder, point)
        assert said == b"."
        alive = sorted(folder.iterdir()) if folder.exists() else []
        if not any(path.name.startswith(".") and not any(path.iterdir()) for path in alive):
            assert clean_up(folder) == []  # it is still at work
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(int(str(answer(asked)))) == signal.SIGKILL
        there = list(folder.iterdir()) if folder.exists() else []
        whole = [path for path in there if not path.name.startswith(".")]
        for path in whole:
            assert read_bundle(path).finding.code == "LT701"
        for path in set(there) - set(whole):
            with pytest.raises(BundleError):
                read_bundle(path)
        ends.append((len(whole), len(there) - len(whole)))
        assert len(clean_up(folder)) == len(there) - len(whole)
        assert sorted(folder.iterdir() if folder.exists() else []) == sorted(whole)
    # Nothing, a leftover, a bundle: in this order, and never both.
    assert ends == sorted(ends, key=[(0, 0), (0, 1), (1, 0)].index)
    assert set(ends) == {(0, 0), (0, 1), (1, 0)}


def test_the_next_run_writes_as_if_nothing_had_been(asked: Connection) -> None:
    child, said = start(asked, HERE, 20)
    assert said == b"."
    assert len(hidden(HERE)) == 1
    os.kill(child, signal.SIGKILL)
    answer(asked)
    guard = NanLossGuard("skip", bundle_dir=HERE)
    with pytest.warns(UserWarning, match="LT701"):
        quiet_trainer(callbacks=[guard]).fit(FaultyMlp({1: "log", 3: "log"}))
    assert hidden(HERE) == []
    assert [read_bundle(path).run["step"] for path in sorted(HERE.iterdir())] == [1, 3]
