"""The theme of saving in little: every row is there, its figures are figures, and the picture has data."""

from __future__ import annotations

import mnist_data
import pytest
import saving
from mnist_training import Bench
from rich.console import Console


@pytest.fixture(scope="module")
def theme(reports):
    bench = Bench(mnist_data.load_digits(mirrors=()), fast=True, report=reports, console=Console(width=100, quiet=True))
    return saving.tell(bench)


def test_every_file_is_read_without_lightning(theme):
    names = [row[0] for row in theme.rows]
    assert names == [
        "in the run itself, with Lightning",
        "Lightning's .ckpt",
        "four keys, .pth",
        "weights, .pth",
        "weights, .safetensors",
        "trained on without Lightning",
    ]
    assert len({row[-1] for row in theme.rows}) == 1  # the same accuracy everywhere
    assert float(theme.rows[0][-1].removesuffix(" %")) > 50
    assert "Every file gives the accuracy of the run" in theme.verdict
    assert "never imported Lightning" in theme.verdict
    assert "bit for bit" in theme.verdict


def test_the_figures_are_figures(theme):
    sizes = [float(row[1].removesuffix(" MB")) for row in theme.rows[1:5]]
    assert sizes[0] == pytest.approx(3 * sizes[2], rel=0.1)
    assert all(float(row[2].removesuffix(" ms")) > 0 for row in theme.rows[1:5])
    assert all(len(row) == len(theme.columns) for row in theme.rows)


def test_the_picture_has_data(theme):
    left, middle, right = theme.figure.axes
    assert len(left.patches) == 8
    assert len(middle.patches) == 4
    assert [len(line.get_ydata()) > 1 for line in right.lines] == [True] * 3


def test_the_reports_of_its_runs_open(theme, open_reports):
    open_reports()
