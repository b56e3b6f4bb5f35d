"""The comparison of optimizers in little."""

from __future__ import annotations

import re

import mnist_data
import optimizers
import pytest
from mnist_training import Bench
from rich.console import Console

from lightning_tuning.findings.optimizers import OPTIMIZERS

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")


@pytest.fixture(scope="module")
def theme(reports):
    pytest.importorskip("matplotlib")
    digits = mnist_data.load_digits(mirrors=())
    return optimizers.tell(Bench(digits, fast=True, report=reports, console=Console(width=100)))


def test_every_optimizer_at_its_rates(theme):
    for name, facts in OPTIMIZERS.items():
        rates = {row[2]: float(row[1]) for row in theme.rows if row[0] == name}
        if facts.default_lr == optimizers.SENSIBLE[name]:
            rates |= {"torch's": rates["both"], "sensible": rates.pop("both")}
        assert rates.keys() == set(optimizers.KINDS)
        assert (rates["torch's"], rates["sensible"]) == (facts.default_lr, optimizers.SENSIBLE[name])
        assert rates["swept"] != facts.default_lr
    assert all(len(row) == len(theme.columns) for row in theme.rows)


def test_the_figures_are_measured(theme):
    for name, *_, accuracy, loss, megabytes, milliseconds in theme.rows:
        assert 0 < float(accuracy.removesuffix(" %")) <= 100
        assert float(loss) > 0
        assert float(milliseconds) > 0
        weights = 784 * 256 + 2 * 256 * 256 + 2560 + 3 * 256 + 10
        assert float(megabytes) == pytest.approx(OPTIMIZERS[name].states * weights * 4 / 2**20, abs=0.011)


def test_the_picture_has_a_curve_for_each(theme):
    axes = theme.figure.axes
    assert [len(part.lines) for part in axes] == [7, 7, 7]
    assert all(len(line.get_ydata()) > 10 for part in axes for line in part.lines)
    assert all(part.get_xlabel() for part in axes)


def test_the_verdict_is_made_of_figures(theme):
    assert len(re.findall(r"\d+\.\d", theme.verdict)) >= 6


def test_the_reports_of_its_runs_open(theme, open_reports):
    open_reports()
