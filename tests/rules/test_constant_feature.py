from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_tuning.rules.constant_feature import constant_features, feature_axes
from lightning_tuning.trace import Recorder

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("lows", "highs", "feature"),
    [
        ([-1.0, 0.4, -2.0], [1.0, 0.4, 2.0], 1),
        ([-1.0, -2.0], [1.0, 2.0], None),
        ([-1.0, 0.0, -2.0], [1.0, 0.0, 2.0], None),  # padding
        ([-1.0, 1.0, -2.0], [1.0, 1.0, 2.0], None),  # a column of ones
        ([-0.4, -0.4, -0.4], [3.0, -0.4, -0.4], None),  # the border of normalized images
        ([-1.0, 0.3, 0.3, -2.0], [1.0, 0.3, 0.3, 2.0], None),
        ([0.4, 0.5], [0.4, 0.5], None),  # nothing changes: a dummy
        ([NAN, 0.4], [NAN, 0.4], None),
        ([-INF, 0.4], [INF, 0.4], None),
        ([0.4], [0.4], None),
        ([], [], None),
    ],
)
def test_columns(lows, highs, feature):
    finding = constant_features("batch[0]", lows, highs, 128, channels=False)
    assert (None if finding is None else finding.evidence["feature"]) == feature
    assert constant_features("batch[0]", lows, highs, 63, channels=False) is None


def test_channels():
    opaque = constant_features("batch[0]", [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], 128, channels=True)
    assert opaque.message == "channel 3 of 4 is 1 in all 128 samples"
    assert constant_features("batch[0]", [0.0, 0.0, 0.0], [1.0, 1.0, 0.0], 128, channels=True) is None


def test_several():
    finding = constant_features("batch", [-9.0, 1.5, 2.5], [9.0, 1.5, 2.5], 64, channels=False)
    assert finding.message == "features 1, 2 are constant in all 64 samples"


@pytest.mark.parametrize(
    ("net", "shape", "axes"),
    [
        (nn.Linear(4, 2), (8, 4), {"batch": 1}),
        (nn.Linear(4, 2), (8, 3, 4), {"batch": 2}),
        (nn.Conv2d(3, 2, 3), (8, 3, 5, 5), {"batch": 1}),
        (nn.Conv2d(1, 2, 3), (8, 1, 5, 5), {}),
        (nn.LSTM(4, 2, batch_first=True), (8, 3, 4), {"batch": 2}),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 2)), (8, 3, 3), {}),
        (nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), (8, 4), {}),
    ],
)
def test_axes(net, shape, axes):
    batch = torch.randn(shape)
    with Recorder(net, batch) as recorder:
        out = net(batch)
        recorder.mark_loss((out[0] if isinstance(out, tuple) else out).sum())
    assert feature_axes(recorder.graph) == axes
