from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules.target_shape_broadcast import broadcast_targets
from lightning_tuning.trace import Recorder

B = 6


def found(step, target=(B,), samples=B):
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    batch = {"x": torch.randn(samples, 4), "y": torch.randn(target)}
    with warnings.catch_warnings(), Recorder(net, batch) as recorder:
        warnings.simplefilter("ignore")  # torch's own, on sizes that differ
        recorder.mark_loss(step(net(batch["x"]), batch["y"]))
    return [finding.message for finding in broadcast_targets(recorder.graph)]


def gaussian(p, y):
    return -torch.distributions.Normal(p, 1.0).log_prob(y).mean()


def clipped(p, y):
    return torch.where((p - y).abs() < 1, (p - y) ** 2, (p - y).abs()).mean()


SICK = {
    "mse_loss": F.mse_loss,
    "module": nn.SmoothL1Loss(),
    "swapped": lambda p, y: F.l1_loss(y, p),
    "sum": lambda p, y: F.huber_loss(p, y, reduction="sum"),
    "by hand": lambda p, y: ((p - y) ** 2).mean(),
    "sub": lambda p, y: torch.sub(y, p).abs().sum(),
    "root": lambda p, y: (p - y).square().mean().sqrt(),
    "advantage": lambda p, y: (p.squeeze(1) * (y - p.detach())).mean(),
    "scaled target": lambda p, y: F.mse_loss(p, (y - 0.1) / 2),
    "none, then mean": lambda p, y: F.mse_loss(p, y, reduction="none").mean(),
    "viewed": lambda p, y: ((p.view(-1, 1) - y) ** 2).mean(),
    "normal": gaussian,
}


@pytest.mark.parametrize("step", SICK.values(), ids=SICK)
def test_a_column_against_a_row(step):
    (message,) = found(step)
    assert "comparison of each with each, (6, 6)" in message


def test_a_row_against_a_column():
    (message,) = found(lambda p, y: F.mse_loss(p.squeeze(1), y), target=(B, 1))
    assert "prediction (6,)" in message
    assert "batch['y'] (6, 1)" in message


QUIET = {
    "squeezed": lambda p, y: F.mse_loss(p.squeeze(1), y),
    "unsqueezed": lambda p, y: F.mse_loss(p, y.unsqueeze(1)),
    "pairs of the model": lambda p, y: (p - p.squeeze(1)).square().mean(),
    "pairs on purpose": lambda p, y: (p.squeeze(1)[:, None] - y).abs().mean(),
    "pairs by unsqueeze": lambda p, y: (p.squeeze(1).unsqueeze(1) - y).abs().mean(),
    "density": lambda p, y: torch.logsumexp(-((p - y) ** 2), 1).mean(),
    "nearest": lambda p, y: (p - y).abs().min(1).values.mean(),
    "a constant": lambda p, y: F.mse_loss(p, torch.ones(B)),
    "a grid": lambda p, y: ((p - torch.linspace(0, 1, B)) ** 2).mean(),
    "cdist": lambda p, y: torch.cdist(p, y[:, None]).mean(),
    "ranks": lambda p, y: F.softplus(-(p - p.T) * (y[:, None] - y).sign()).mean(),
    "unused": lambda p, y: p.mean() + 0 * (p.detach() - y).shape[0],
    "mask": lambda p, y: (p.exp() * (y[None] >= y[:, None])).sum(0).log().mean(),
}


@pytest.mark.parametrize("step", QUIET.values(), ids=QUIET)
def test_what_is_meant(step):
    assert found(step) == []


def test_one_sample_broadcasts_to_itself():
    assert found(F.mse_loss, target=(1,), samples=1) == []
