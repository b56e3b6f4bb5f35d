from __future__ import annotations

import pytest
from torch import Tensor, nn

from lightning_tuning.rules.batchnorm_axis import wrong_axes
from lightning_tuning.trace import Graph
from tests.rules.graphs import Lambda, rows, step_of


def tokens(way: str) -> nn.Module:
    def forward(parts: nn.ModuleDict, x: Tensor) -> Tensor:
        x = parts["gru"](x)[0] if way == "recurrent" else parts["embed"](x).relu()
        if way == "transposed":
            x = parts["norm"](x.transpose(1, 2)).transpose(1, 2)
        elif way == "flattened":
            x = parts["norm"](x.flatten(0, 1)).unflatten(0, (-1, 6))
        else:
            x = parts["norm"](x)
        return parts["head"](x.mean(1))

    parts = {"embed": nn.Linear(4, 6), "gru": nn.GRU(4, 6, batch_first=True)}
    return Lambda(forward, **parts, norm=nn.BatchNorm1d(6), head=nn.Linear(6, 2))


@pytest.mark.parametrize(
    ("way", "found"), [("linear", True), ("recurrent", True), ("transposed", False), ("flattened", False)]
)
def test_tokens(way: str, *, found: bool) -> None:
    findings = wrong_axes(step_of(tokens(way), rows(8, 6, 4)))
    assert [finding.where for finding in findings] == (["parts.norm"] if found else [])


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Sequential(nn.Conv1d(2, 6, 1), nn.BatchNorm1d(6), nn.Flatten(), nn.Linear(36, 2)), (2, 6)),
        (nn.Sequential(nn.BatchNorm1d(6), nn.Flatten(), nn.Linear(36, 2)), (6, 6)),
        (nn.Sequential(nn.Conv2d(1, 6, 1), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(216, 2)), (1, 6, 6)),
    ],
    ids=["convolution", "input", "maps"],
)
def test_quiet(net: nn.Module, shape: tuple[int, ...]) -> None:
    assert wrong_axes(step_of(net, rows(8, *shape))) == []


def test_nothing_at_all() -> None:
    assert wrong_axes(Graph()) == []
