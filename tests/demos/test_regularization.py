"""The theme in little: that everything runs, and says what was measured. What full runs say is printed by them."""

from __future__ import annotations

import mnist_data
import pytest
import regularization
import torch
from mnist_training import Bench
from rich.console import Console

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")


@pytest.fixture(scope="module")
def theme(reports):
    return regularization.tell(
        Bench(mnist_data.load_digits(mirrors=()), fast=True, report=reports, console=Console(quiet=True))
    )


def test_every_way_has_its_figures(theme):
    assert [row[0] for row in theme.rows] == list(regularization.WAYS)
    assert {len(row) for row in theme.rows} == {len(theme.columns)}
    for row in theme.rows:
        for share in (row[1], row[2], row[4], row[5]):
            assert 0 <= float(share.removesuffix(" %")) <= 100
        assert float(row[3]) > 0
        assert float(row[6]) > 0


def test_the_proximal_step_alone_gives_zeros(theme):
    zeros = {row[0]: float(row[4].removesuffix(" %")) for row in theme.rows}
    assert zeros["L1 proximal"] > 1 > zeros["L1 gradient"]
    assert zeros["none"] == 0


def test_figure_and_verdict_are_made_of_the_runs(theme):
    for axes in theme.figure.axes:
        assert len(axes.lines) == len(regularization.WAYS)
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    assert "Points of test accuracy against none" in theme.verdict


def test_one_label_in_five_is_drawn_anew():
    images = mnist_data.Split(torch.zeros(2000, 1, 28, 28), torch.zeros(2000, dtype=torch.long))
    labels = regularization._with_wrong_labels(images, seed=0).labels
    assert 0.15 < float((labels != 0).float().mean()) < 0.21  # a tenth of the new ones are right by chance
    assert torch.equal(labels, regularization._with_wrong_labels(images, seed=0).labels)


def test_the_reports_of_its_runs_open(theme, open_reports):
    open_reports()
