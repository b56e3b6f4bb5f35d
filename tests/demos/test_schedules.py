"""The demo of schedules in little: every run is there, its figures are figures, and the picture shows them."""

from __future__ import annotations

import mnist_data
import pytest
import schedules
from mnist_training import Bench
from rich.console import Console


@pytest.fixture(scope="module")
def theme(reports):
    bench = Bench(mnist_data.load_digits(mirrors=()), fast=True, report=reports, console=Console(width=100))
    return schedules.tell(bench)


def test_the_table_has_a_row_for_each_schedule(theme):
    assert [row[0] for row in theme.rows] == [*schedules.schedules(1)]
    for _, accuracy, *figures in theme.rows:
        assert 10 < float(accuracy.removesuffix(" %")) <= 100
        assert all(float(figure) >= 0 for figure in figures)


def test_the_rates_come_down_where_they_should(theme):
    place = theme.columns.index("last rate")
    last = {row[0]: float(row[place]) for row in theme.rows}
    assert last["constant"] == pytest.approx(schedules.LR)
    assert last["StepLR"] == pytest.approx(0.1 * schedules.LR)
    assert max(last["cosine"], last["OneCycleLR"], last["warm-up + cosine"]) < 0.02 * schedules.LR


def test_the_verdict_names_the_best_by_its_figures(theme):
    place = theme.columns.index("test loss")
    best = min(theme.rows[1:], key=lambda row: float(row[place]))
    assert f"{best[0]} has the lowest, {best[place]}" in theme.verdict
    better = [row for row in theme.rows[1:] if float(row[place]) < float(theme.rows[0][place])]
    assert theme.verdict.startswith(f"{len(better)} of {len(theme.rows) - 1} schedules")


def test_the_picture_has_a_line_for_each(theme):
    rates, losses = theme.figure.axes
    for axes in (rates, losses):
        lines = [line for line in axes.get_lines() if len(line.get_xdata()) > 10]
        assert len(lines) == len(theme.rows)
        assert axes.get_legend() is not None
        assert axes.get_ylabel()


def test_the_reports_of_its_runs_open(theme, open_reports):
    open_reports()
