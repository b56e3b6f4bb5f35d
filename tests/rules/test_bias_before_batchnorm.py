from __future__ import annotations

import pytest
from torch import Tensor, nn

from lightning_tuning.rules.bias_before_batchnorm import LT310, cancelled_biases
from lightning_tuning.trace import Graph
from tests.rules.graphs import Lambda, rows, step_of


def test_biases_are_counted() -> None:
    net = nn.Sequential(
        nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
    )
    found = cancelled_biases(step_of(net, rows()))
    assert found is not None
    assert found.where == "0.bias"
    assert found.evidence["biases"] == 2
    assert found.message == "the batch norm `1` subtracts the bias of `0` again (1 more likewise)"


def test_convolutions() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    found = cancelled_biases(step_of(net, rows(8, 1, 8, 8)))
    assert found is not None
    assert found.where == "0.bias"


def branched(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    hidden = parts["body"](x)
    return parts["head"](parts["norm"](hidden) + hidden)


def frozen() -> nn.Module:
    layer = nn.Linear(8, 4)
    layer.bias.requires_grad_(False)
    return nn.Sequential(layer, nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Linear(8, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
        Lambda(branched, body=nn.Linear(8, 4), norm=nn.BatchNorm1d(4), head=nn.Linear(4, 2)),
        frozen(),
    ],
    ids=["no bias", "activation between", "layer norm", "used elsewhere", "frozen"],
)
def test_quiet(net: nn.Module) -> None:
    assert cancelled_biases(step_of(net, rows())) is None


def test_evaluation_mode_is_quiet() -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert cancelled_biases(step_of(net, rows(), training=False)) is None
    assert cancelled_biases(Graph()) is None


def test_it_is_taste() -> None:
    assert LT310.kind == "advice"
