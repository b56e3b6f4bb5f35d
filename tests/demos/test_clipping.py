"""The theme in little: that everything runs, and says what was measured. What full runs say is printed by them."""

from __future__ import annotations

import clipping
import mnist_data
import pytest
from mnist_training import Bench
from rich.console import Console

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")


@pytest.fixture(scope="module")
def theme(reports):
    return clipping.tell(
        Bench(mnist_data.load_digits(mirrors=()), fast=True, report=reports, console=Console(quiet=True))
    )


def test_every_way_has_its_figures(theme):
    assert [row[0] for row in theme.rows] == list(clipping.ways())
    assert {len(row) for row in theme.rows} == {len(theme.columns)}
    for row in theme.rows:
        for accuracy, share in ((row[1], row[2]), (row[4], row[5])):
            assert 0 <= float(accuracy.removesuffix(" %")) <= 100
            assert 0 <= float(share.removesuffix(" %")) <= 100


def test_the_percentiles_clip_what_they_say(theme):
    shares = {row[0]: float(row[2].removesuffix(" %")) for row in theme.rows}
    assert shares["none"] == 0
    assert shares["percentile 90"] < shares["percentile 10"]


def test_figure_and_verdict_are_made_of_the_runs(theme):
    left, right = theme.figure.axes
    assert len(left.lines) == len(clipping.ways())
    assert all(len(line.get_ydata()) > 50 for line in left.lines)
    assert len(right.lines) == 4
    assert left.get_xlabel() == "update"
    assert "Percentile 90 clips" in theme.verdict


def test_the_reports_of_its_runs_open(theme, open_reports):
    open_reports()
