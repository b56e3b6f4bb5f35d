"""The demo of initial weights, on few images: its table, its figure, and what holds at any size."""

from __future__ import annotations

import math

import initialization
import mnist_data
import pytest
from mnist_training import Bench
from rich.console import Console

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")


@pytest.fixture(scope="module")
def theme(reports):
    bench = Bench(mnist_data.load_digits(mirrors=()), fast=True, report=reports, console=Console(quiet=True))
    return initialization.tell(bench)


@pytest.fixture(scope="module")
def figures(theme):
    return {row[0]: [float(cell.removesuffix(" %")) for cell in row[1:]] for row in theme.rows}


def test_a_row_for_each_run(theme, figures):
    residual = [f"residual {mode}, lr {rate}" for mode, rate in initialization.RESIDUAL]
    assert [*figures] == [*initialization.PLAIN, *residual, "rare classes, keep", "rare classes, prior"]
    assert all(len(row) == len(theme.columns) for row in theme.rows)


def test_the_first_losses_are_what_each_promises(figures):
    first = {name: values[0] for name, values in figures.items()}
    assert first["torch's default"] == pytest.approx(math.log(10), rel=0.02)
    assert first["residual fixup, lr 0.01"] == pytest.approx(math.log(10), rel=1e-3)
    assert first["residual keep, lr 0.01"] > 10 * first["residual zero, lr 0.01"]
    assert first["rare classes, prior"] < 0.85 * first["rare classes, keep"]


def test_the_picture_and_the_verdict(theme):
    assert len(theme.figure.axes) == 4
    assert all(axes.get_xlabel() and axes.get_ylabel() and axes.lines for axes in theme.figure.axes)
    spread = theme.figure.axes[0].lines
    last = {line.get_label(): line.get_ydata()[-1] for line in spread}
    assert last["lsuv"] > 100 * last["torch's default"]
    assert "ahead" in theme.verdict


def test_the_reports_of_its_runs_open(theme, open_reports):
    open_reports()
