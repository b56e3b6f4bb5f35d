from __future__ import annotations

import batchnorm_dropout
import mnist_data
import pytest
import torch
from mnist_training import Bench
from rich.console import Console

# Findings are what the runs are about; nothing else may be warned of.
pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")


@pytest.fixture(scope="module")
def theme(reports):
    with torch.random.fork_rng(devices=[]):
        return batchnorm_dropout.tell(
            Bench(mnist_data.load_digits(mirrors=()), fast=True, report=reports, console=Console(width=100))
        )


def percent(text: str) -> float:
    assert text.endswith(" %")
    return float(text[:-2])


def test_every_run_has_a_row_of_figures(theme):
    names = [row[0] for row in theme.rows]
    assert names[:2] == ["dropout before BN", "no dropout"]
    assert {"on_conflict='move'", "on_conflict='uout'", "RecalibrateBatchNorm", "DropoutSchedule to 0"} <= {*names}
    assert {"BN, batches of 4", "Convert to group", "Convert to renorm"} <= {*names}
    for row in theme.rows:
        assert len(row) == len(theme.columns)
        assert 0 <= percent(row[1]) <= 100
        assert float(row[2]) > 0


def test_the_picture_has_a_line_for_each(theme):
    left, right = theme.figure.axes
    assert len(left.lines) + len(right.lines) == len(theme.rows)
    assert all(len(line.get_ydata()) == batchnorm_dropout.EVERY for line in left.lines)
    assert left.get_ylabel().endswith("(%)")


def test_the_verdict_has_the_figures_of_the_table(theme):
    assert theme.rows[0][1] in theme.verdict
    assert theme.rows[6][1] in theme.verdict


def test_the_reports_of_its_runs_open(theme, open_reports):
    open_reports()
