from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules.non_finite_input import Row, is_allowed, non_finite_input, tolerated_leaves
from lightning_tuning.trace import Recorder


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], None),
        ([0, 0, 0], None),
        ([0, 1, 0], "NaN in 1 of 3 samples of batch 7: sample 1"),
        ([2, 0, 2], "inf in 2 of 3 samples of batch 7: samples 0, 2"),
        ([1, 2, 3], "NaN and inf and -inf in 3 of 3 samples of batch 7: samples 0, 1, 2"),
        ([1], "NaN in batch 7"),
        ([1] * 20, "NaN in 20 of 20 samples of batch 7: samples 0, 1, 2, 3, 4, 5, 6, 7, ..."),
    ],
)
def test_the_verdict(rows, message):
    finding = non_finite_input("batch[0]", rows, 7)
    assert (finding and finding.message) == message
    if finding is not None:
        assert finding.where == "batch[0]"
        assert finding.evidence["nan_samples"] == sum(row == Row.NAN for row in rows)


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [("batch[1]", True), ("batch[*]", True), ("*", True), ("batch1", False), ("batch[0]", False), ("[1]", False)],
)
def test_globs_take_brackets_as_they_stand(pattern, matches):
    assert is_allowed("batch[1]", [pattern]) is matches


def tolerated(step, *, leaves=("x", "y")):
    net = nn.Linear(4, 1)
    batch = {"x": torch.randn(8, 4), "y": torch.randn(8)}
    with Recorder(net, batch) as recorder:
        recorder.mark_loss(step(net(batch["x"]).squeeze(1), batch["y"]))
    return tolerated_leaves(recorder.graph, [f"batch['{leaf}']" for leaf in leaves])


def masked(p, y):
    known = ~y.isnan()
    return F.mse_loss(p[known], y[known])


def masked_by_itself(p, y):
    known = y == y  # noqa: PLR0124
    return F.mse_loss(p[known], y[known])


def masked_in_pieces(p, y):
    known = torch.isfinite(y[:4])
    return ((p[:4] - y[:4]) ** 2)[known].mean()


@pytest.mark.parametrize(
    "step",
    [masked, masked_by_itself, masked_in_pieces, lambda p, y: F.mse_loss(p, y.nan_to_num()), lambda p, y: p.mean()],
    ids=["isnan", "y == y", "a piece", "nan_to_num", "not used"],
)
def test_what_the_step_takes_care_of(step):
    assert tolerated(step) == {"batch['y']"}


def test_what_it_does_not():
    assert tolerated(F.mse_loss) == set()


def test_nothing_is_unused_where_it_leaves_the_graph_or_not_all_was_seen():
    assert tolerated(lambda p, y: F.mse_loss(p, torch.as_tensor(y.numpy()))) == set()
    net, batch = nn.Linear(4, 1), {"x": torch.randn(8, 4), "y": torch.randn(8)}
    with Recorder(net, batch) as recorder:
        recorder.mark_loss(net(batch["x"]).sum())
    recorder.graph.blind.append("something")
    assert tolerated_leaves(recorder.graph, ["batch['y']"]) == set()
