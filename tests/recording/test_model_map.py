"""A traced step as blocks: small nets as they are, large ones cut down, and said so."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_tuning.recording import _model_map
from lightning_tuning.recording._model_map import model_map
from lightning_tuning.trace import Graph, Recorder


def traced(net: nn.Module, x: Tensor) -> Graph:
    with Recorder(net, x) as recorder:
        recorder.mark_loss(net(x).square().mean() / 2)
    return recorder.graph


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x + self.body(x))


def deep(layers: int) -> nn.Module:
    return nn.Sequential(*(Residual() for _ in range(layers)))


def test_blocks_and_edges() -> None:
    found = model_map(traced(Residual(), torch.ones(2, 4)))
    nodes = [(n["module"], n["kind"], n["operations"], n["parameters"], n["shape"]) for n in found["nodes"]]
    assert nodes == [
        ("body.0", "Linear", ["linear"], 20, [2, 4]),
        ("body.1", "ReLU", ["relu"], 0, [2, 4]),
        ("", "Residual", ["add"], 0, [2, 4]),
        ("frozen", "Linear", ["linear"], 0, [2, 4]),
        ("", "Residual", ["square"], 0, [2, 4]),
        ("", "loss", ["mean", "div"], 0, []),
    ]
    assert found["edges"] == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]
    assert found["blind"] == []
    assert "test_model_map.py:" in found["nodes"][0]["source_line"]


def test_what_feeds_no_loss_is_left_out() -> None:
    net, x = nn.Linear(4, 4), torch.ones(2, 4)
    with Recorder(net, x) as recorder:
        y = net(x)
        (y > 0).float().mean()  # a metric
        recorder.mark_loss(y.sum())
    assert [node["operations"] for node in model_map(recorder.graph)["nodes"]] == [["linear"], ["sum"]]


def test_a_net_of_200_layers_is_shown_whole() -> None:
    found = model_map(traced(deep(200), torch.ones(2, 4)))
    assert found["blind"] == []
    assert len(found["nodes"]) == 200 * 4 + 2
    assert len(json.dumps(found)) < 200_000


@pytest.mark.parametrize(("most", "shown"), [(100, 82), (30, 30)])
def test_a_larger_one_is_cut_down_and_that_is_said(most: int, shown: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_model_map, "MOST_NODES", most)
    net = nn.Sequential(*(nn.Sequential(Residual(), nn.Sequential(nn.ReLU(), nn.Tanh())) for _ in range(40)))
    found: dict[str, Any] = model_map(traced(net, torch.ones(2, 4)))
    assert len(found["nodes"]) == shown
    assert found["nodes"][-1]["kind"] == "loss"
    assert "here shown as" in found["blind"][0]
    assert all(0 <= start < end < len(found["nodes"]) for start, end in found["edges"])
    is_whole = sum(node["parameters"] for node in found["nodes"]) == 40 * 20
    assert is_whole is (len(found["blind"]) == 1)
