from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.rules.batchnorm_on_output import batch_norms_on_output
from lightning_tuning.trace import Graph
from tests.rules.graphs import Lambda, classes, rows, squares, step_of


def functional() -> nn.Module:
    def forward(parts: nn.ModuleDict, x: Tensor) -> Tensor:
        return F.batch_norm(parts["head"](x), torch.zeros(2), torch.ones(2), training=True)

    return Lambda(forward, head=nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("net", "loss"),
    [
        (nn.Sequential(nn.Linear(8, 2), nn.BatchNorm1d(2)), classes),
        (nn.Sequential(nn.Linear(8, 2), nn.BatchNorm1d(2), nn.ReLU()), classes),
        (nn.Sequential(nn.Linear(8, 1), nn.BatchNorm1d(1)), squares),
        (functional(), classes),
    ],
    ids=["cross entropy", "behind a relu", "regression", "functional"],
)
def test_on_the_output(net: nn.Module, loss) -> None:
    (found,) = batch_norms_on_output(step_of(net, rows(), loss))
    assert found.evidence["loss"] in ("cross_entropy", "mse_loss")
    assert found.where == "1" or found.source_line


def embeddings(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    one, other = F.normalize(net(x)), F.normalize(net(x + 0.1))
    return F.cross_entropy(one @ other.T / 0.1, torch.arange(len(x)))


def siamese(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return -F.cosine_similarity(net(x), net(x + 0.1).detach()).mean()


def distilled(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        target = net(x)
    return F.mse_loss(net(x), target)


def triplets(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    out = net(x)
    return F.triplet_margin_loss(out, out.roll(2, 0), out.roll(1, 0))


def decorrelation(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Barlow Twins."""
    one, other = net(x), net(x + 0.1)
    return ((one.T @ other) / len(x) - torch.eye(one.shape[1])).pow(2).sum()


@pytest.mark.parametrize("loss", [embeddings, siamese, distilled, triplets, decorrelation])
def test_embeddings_are_quiet(loss) -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4, affine=False))
    assert batch_norms_on_output(step_of(net, rows(), loss)) == []


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)),
        nn.Sequential(
            nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ),
        nn.Sequential(nn.Linear(8, 2), nn.LayerNorm(2)),
    ],
    ids=["hidden", "averaged maps", "layer norm"],
)
def test_quiet(net: nn.Module) -> None:
    assert batch_norms_on_output(step_of(net, rows())) == []


def test_evaluation_mode_is_quiet() -> None:
    net = nn.Sequential(nn.Linear(8, 2), nn.BatchNorm1d(2))
    assert batch_norms_on_output(step_of(net, rows(), training=False)) == []
    assert batch_norms_on_output(Graph()) == []
