"""SIGKILL at every point of writing an export: the old file or the new one is there, and always whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_tuning.findings.whole_file import write_whole
from lightning_tuning.functional.state_file import read_state_file
from tests.treatments.export_writing import write

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked at the point of death")

POINTS = 8  # half a file, a file; before and after: its fsync, the move, the folder's fsync


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_killed_anywhere(name: str, tmp_path: Path) -> None:
    folders = [tmp_path / str(point) for point in range(POINTS + 1)]
    for folder in folders:
        write(folder / name, 1.0)
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.treatments.export_writing", str(tmp_path / name)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stdout.split() == [str(-signal.SIGKILL)] * POINTS + ["7"], ended.stderr
    fills, leftovers = [], []
    for folder in folders:
        state = read_state_file(folder / name)
        fills.append(float(state["bias"][0]))
        assert all(torch.equal(value, torch.full_like(value, fills[-1])) for value in state.values())
        leftovers.append(len(list(folder.iterdir())) - 1)
    assert fills == [1.0] * 5 + [2.0] * 4
    assert leftovers == [2] * 5 + [1, 0, 0, 0]  # draft and mark; a mark alone
    for folder in folders:  # the next one clears up
        write(folder / name, 3.0)
        assert [path.name for path in folder.iterdir()] == [name]


def test_a_draft_at_work_is_left_alone(tmp_path: Path) -> None:
    inside = []

    def fill(draft: Path) -> None:
        draft.write_text("half of")
        again = tmp_path / "again"
        again.write_text("one")
        again.replace(draft)  # as safetensors does
        write_whole(tmp_path / "other", lambda other: other.write_text("two") and None)
        inside.extend(path.name for path in tmp_path.iterdir())

    write_whole(tmp_path / "file", fill)
    assert len(inside) == 3  # a draft, its mark, and the other file
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["one", "two"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def fails(draft: Path) -> None:
        draft.write_text("half of")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_whole(tmp_path / "a", fails)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_a_long_name_and_new_folders(tmp_path: Path) -> None:
    path = tmp_path / "b" / "c" / ("n" * 250)
    write_whole(path, lambda draft: draft.write_text("here") and None)
    assert path.read_text() == "here"
