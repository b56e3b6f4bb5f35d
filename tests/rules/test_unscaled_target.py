from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules.unscaled_target import is_fresh, regressions, unscaled_target
from lightning_tuning.trace import Recorder

NAN, INF = float("nan"), float("inf")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.head(F.relu(self.body(x))).squeeze(1)


def layers(step):
    net, batch = Net(), [torch.randn(16, 4), torch.randn(16)]
    with Recorder(net, batch) as recorder:
        recorder.mark_loss(step(net(batch[0]), batch[1]))
    return [(name, layer.module) for name, _, layer in regressions(recorder.graph)]


@pytest.mark.parametrize(
    "step",
    [
        F.mse_loss,
        nn.L1Loss(),
        nn.HuberLoss(),
        lambda p, y: ((p - y) ** 2).mean(),
        lambda p, y: F.mse_loss(F.softplus(p), y.float()),
        lambda p, y: 0.5 * F.mse_loss(p, y) + 1e-4 * p.abs().mean(),
        lambda p, y: F.mse_loss(p, y, reduction="none").mean(),
    ],
)
def test_regressions(step):
    assert layers(step) == [("batch[1]", "head")]


@pytest.mark.parametrize(
    "step",
    [
        lambda p, y: F.mse_loss(p, y) / 1000,
        lambda p, y: 1e-3 * F.mse_loss(p, y),
        lambda p, y: F.mse_loss(p, y) / y.var(),
        lambda p, y: F.mse_loss(p, y).log(),
        lambda p, y: F.mse_loss(p * 100 + 20, y),
        lambda p, y: F.mse_loss(p, y / 1000),
        lambda p, y: F.mse_loss(p, y.log1p()),
        lambda p, y: F.mse_loss(p, torch.randn(16)),
        lambda p, y: F.binary_cross_entropy_with_logits(p, y.sigmoid()),
    ],
)
def test_scaled_on_the_way(step):
    assert layers(step) == []


def op_of_head():
    net, x = Net(), torch.randn(16, 4)
    with Recorder(net, x) as recorder:
        recorder.mark_loss(net(x).sum())
    return recorder.graph.find("linear")[1]


SPREAD = torch.linspace(-1, 1, 32)


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        (SPREAD, None),
        (50 * SPREAD + 30, None),
        (300 + 10 * SPREAD, None),
        (1000 * SPREAD, "std 605.2 > 100"),
        (10_000 + SPREAD, "mean 1e+04 is 16522 > 100 standard deviations from 0"),
        (torch.full((32,), 10_000.0), None),
        (torch.zeros(32), None),
        (10_000 + SPREAD[:5], None),
        (torch.full((32,), NAN), None),
        (torch.cat([SPREAD, torch.tensor([INF, NAN])]), None),
        (torch.zeros(0), None),
    ],
)
def test_the_scale(target, fault):
    finding = unscaled_target("batch[1]", op_of_head(), target)
    assert (finding is not None) is (fault is not None)
    if fault is not None:
        assert fault in finding.message
        assert "`head`" in finding.message


def test_fresh():
    layer = nn.Linear(64, 1)
    assert is_fresh(layer.weight, layer.bias)
    assert is_fresh(torch.zeros(1, 64), None)
    assert not is_fresh(layer.weight, torch.tensor([10_000.0]))
    assert not is_fresh(20 * layer.weight, layer.bias)
    assert is_fresh(nn.Conv2d(3, 8, 3).weight, None)
    assert not is_fresh(torch.zeros(0, 4), None)
