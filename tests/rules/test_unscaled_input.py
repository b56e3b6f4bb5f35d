from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules.unscaled_input import InputStatistics, entrances, is_loss_off, unscaled_input
from lightning_tuning.trace import Recorder

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("numbers", "fault"),
    [
        ((0.0, 1.0, -3.0, 3.0), None),
        ((0.5, 0.25, 0.0, 1.0), None),
        ((0.95, 0.1, 0.0, 1.0), None),
        ((0.0, 0.5, -1.0, 1.0), None),
        ((120.0, 70.0, 0.0, 255.0), "largest value 255 > 20"),
        ((0.0, 9.0, -21.0, 5.0), "largest value 21 > 20"),
        ((9.0, 1.0, 6.0, 12.0), "mean 9 is 9.0 > 3 standard deviations from 0"),
        ((0.001, 0.004, 0.0, 0.01), "std 0.004 < 0.01 (normalized twice?)"),
        ((0.0, 0.0, 0.0, 0.0), None),
        ((7.0, 0.0, 7.0, 7.0), None),
        ((NAN, NAN, NAN, NAN), None),
        ((INF, NAN, 0.0, INF), None),
    ],
)
def test_the_scale(numbers, fault):
    mean, std, low, high = numbers
    assert InputStatistics(mean, std, low, high, 1000).fault == fault
    assert InputStatistics(mean, std, low, high, 10).fault is None


@pytest.mark.parametrize(
    ("loss", "expected", "off"),
    [(2.3, 2.3, False), (4.7, 2.3, True), (NAN, 2.3, True), (INF, 2.3, True), (1.0, 0.0, False), (9.0, NAN, False)],
)
def test_the_first_loss(loss, expected, off):
    assert is_loss_off(loss, expected) is off


def graph_of(net, batch, step=None):
    with Recorder(net, batch) as recorder:
        recorder.mark_loss((step or net)(batch).sum())
    return recorder.graph


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(5, 4))

    def forward(self, x):
        return F.relu(F.linear((x - 0.1) / 0.5, self.w))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5)

    def forward(self, x):
        return self.lstm(x[None])[0]


@pytest.mark.parametrize(
    ("net", "name"),
    [
        (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), "linear"),
        (nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(4, 5)), "linear"),
        (Functional(), "linear"),
        (Recurrent(), "lstm"),
    ],
)
def test_entrances(net, name):
    (op,) = entrances(graph_of(net, torch.randn(8, 4)))
    assert op.name == name
    statistics = InputStatistics(120.0, 70.0, 0.0, 255.0, 1000)
    finding = unscaled_input(graph_of(net, torch.randn(8, 4)), op, statistics)
    assert "batch of" in finding.message
    assert finding.evidence["high"] == 255


@pytest.mark.parametrize(
    ("net", "batch"),
    [
        (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5)), torch.randn(8, 4)),
        (nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 5)), torch.randn(8, 4)),
        (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 5)), torch.randint(9, (8, 3))),
    ],
    ids=["batch norm", "layer norm", "embedding"],
)
def test_what_is_no_entrance(net, batch):
    assert entrances(graph_of(net, batch)) == []


def test_whole_numbers_are_no_inputs_but_bytes_of_images_are():
    net = nn.Conv2d(1, 2, 3)
    for dtype, found in ((torch.uint8, 1), (torch.int64, 0)):
        batch = torch.randint(255, (4, 1, 5, 5)).to(dtype)
        assert len(entrances(graph_of(net, batch, lambda x: net(x.float())))) == found


@pytest.mark.parametrize("shape", [(8, 40, 60), (8, 1, 40, 60)])
def test_decibels(shape):
    net = nn.Conv2d(1, 2, 3) if len(shape) == 4 else nn.Linear(60, 2)
    graph = graph_of(net, torch.randn(shape))
    (op,) = entrances(graph)
    assert unscaled_input(graph, op, InputStatistics(-40.0, 20.0, -80.0, 0.0, 10_000)) is None
    assert unscaled_input(graph, op, InputStatistics(-400.0, 20.0, -800.0, 0.0, 10_000)) is not None
    assert math.isclose(unscaled_input(graph, op, InputStatistics(120.0, 70.0, 0.0, 255.0, 1000)).evidence["std"], 70)
