from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.rules.batchnorm_statistics_off import (
    are_settled,
    is_about_the_batch,
    statistics_off,
    unmoved_statistics,
)
from tests.rules.graphs import Loss, classes, rows, squares, step_of

nan, inf = math.nan, math.inf


@pytest.mark.parametrize(
    ("train_loss", "eval_loss", "previous_loss", "first_loss", "found"),
    [
        (0.5, 0.5, 0.5, 2.3, False),
        (0.5, 0.7, 0.7, 2.3, False),
        (0.5, 1.0, 1.0, 2.3, True),
        (0.5, 9.0, 9.0, 2.3, True),
        (0.5, 9.0, 0.6, 2.3, False),  # weights move fast
        (0.5, 9.0, 4.0, 2.3, False),
        (0.5, 0.6, 9.0, 2.3, False),  # the running average is right
        (0.5, 0.1, 0.1, 2.3, False),  # evaluation is better
        (0.01, 0.05, 0.05, 2.3, False),  # five times almost nothing
        (0.01, 0.5, 0.5, 2.3, True),
        (0.0, 0.0, 0.0, 2.3, False),
        (0.0, 1.0, 1.0, 0.0, True),
        (-3.0, -2.9, -2.9, 1.0, False),  # a likelihood
        (-3.0, -1.0, -1.0, 1.0, True),
        (nan, 1.0, 1.0, 2.3, False),
        (1.0, nan, 9.0, 2.3, False),
        (1.0, 9.0, nan, 2.3, False),
        (1.0, inf, 9.0, 2.3, False),
        (1.0, 9.0, 9.0, nan, False),
        (1e4, 1.2e4, 1.2e4, 1e5, False),
    ],
)
def test_losses(train_loss: float, eval_loss: float, previous_loss: float, first_loss: float, *, found: bool) -> None:
    finding = statistics_off(train_loss, eval_loss, previous_loss, first_loss, batches=60)
    assert (finding is not None) == found


def test_the_furthest_is_named() -> None:
    distances = [("a", 0.2), ("b", 3.0), ("c", nan)]
    finding = statistics_off(0.5, 2.0, 2.0, 2.3, batches=60, distances=distances)
    assert finding is not None
    assert finding.where == "b"
    assert finding.evidence["distance"] == 3.0


@pytest.mark.parametrize(
    ("batches", "momenta", "settled"),
    [
        (0, [0.1], False),
        (49, [0.1], False),
        (50, [0.1], True),
        (50, [], True),
        (50, [0.1, 0.01], False),
        (460, [0.1, 0.01], True),
        (10_000, [0.0], False),
        (50, [1.0], True),
        (50, [nan], False),
    ],
)
def test_settled(batches: int, momenta: list[float], *, settled: bool) -> None:
    assert are_settled(batches, momenta) == settled


def test_unmoved() -> None:
    assert unmoved_statistics([], batches=20, momentum=0.1) is None
    finding = unmoved_statistics(["a", "b", "c"], batches=20, momentum=0.1)
    assert finding is not None
    assert "`a` and 2 more" in finding.message
    assert "puts them back" in finding.message
    assert unmoved_statistics(["a"], batches=20, momentum=None) is not None


def correlations(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Redundancy reduction of two views."""
    a, b = net(x), net(x + 0.1)
    return (a.T @ b / len(x) - torch.eye(a.shape[1])).square().sum()


def contrast(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    a, b = F.normalize(net(x), dim=-1), F.normalize(net(x + 0.1), dim=-1)
    return F.cross_entropy(a @ b.T / 0.1, torch.arange(len(x)))


def distances(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    z = net(x)
    return torch.cdist(z, z)[y[:, None] == y].mean()


def projected(*last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4), *last)


@pytest.mark.parametrize(
    ("net", "loss", "about"),
    [
        (projected(), classes, False),
        (projected(), squares, False),
        (projected(nn.Tanh()), squares, False),
        (projected(nn.BatchNorm1d(4)), squares, True),
        (projected(nn.BatchNorm1d(4, affine=False)), correlations, True),
        (projected(), correlations, True),
        (projected(), contrast, True),
        (projected(), distances, True),
    ],
)
def test_losses_that_look_at_the_whole_batch(net: nn.Module, loss: Loss, *, about: bool) -> None:
    assert is_about_the_batch(step_of(net, rows(), loss)) == about
