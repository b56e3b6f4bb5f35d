from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_tuning.rules.suggest_normalization import suggest_normalization, weight_depth
from tests.rules.graphs import Lambda, rows, step_of


def stack(depth, *between, activation=nn.ReLU):
    layers = []
    for number in range(depth - 1):
        layers += [nn.Linear(16 if number else 8, 16), *(part() for part in between), activation()]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def residual():
    def forward(p, x):
        x = p["first"](x)
        for i in range(8):
            x = x + torch.relu(p[f"layer{i}"](x))
        return p["head"](x)

    layers = {f"layer{i}": nn.Linear(16, 16) for i in range(8)}
    return Lambda(forward, first=nn.Linear(8, 16), head=nn.Linear(16, 3), **layers)


def recurrent():
    return Lambda(lambda p, x: p["head"](p["rnn"](x)[0][:, -1]), rnn=nn.RNN(8, 16), head=nn.Linear(16, 3))


def attention():
    parts = {"m": nn.MultiheadAttention(8, 2, batch_first=True), "body": stack(9)}
    return Lambda(lambda p, x: p["body"](p["m"](x, x, x)[0].mean(1)), **parts)


@pytest.mark.parametrize("codes", [["LT201"], ["LT202", "LT601"], {"LT602"}])
def test_a_deep_plain_stack_that_does_badly(codes):
    finding = suggest_normalization(step_of(stack(8), rows()), codes)
    assert (finding.code, finding.evidence["depth"]) == ("LT610", 8)
    assert "nn.BatchNorm1d" in finding.remedy


def test_in_a_recurrent_net_the_place_is_before_the_last_layer():
    finding = suggest_normalization(step_of(recurrent(), rows(4, 5, 8)), ["LT202"])
    assert finding.where == "parts.head"
    assert "BatchNorm1d(16)" in finding.remedy
    assert "before the last linear layer" in finding.remedy


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (stack(7), rows()),
        (stack(12, lambda: nn.BatchNorm1d(16)), rows()),
        (stack(12, lambda: nn.LayerNorm(16)), rows()),
        (stack(12, activation=nn.SELU), rows()),
        (residual(), rows()),
        (attention(), rows(4, 5, 8)),
    ],
    ids=["shallow", "batch norm", "layer norm", "selu", "residual", "transformer"],
)
def test_left_alone(net, x):
    assert suggest_normalization(step_of(net, x), ["LT201", "LT202", "LT602"]) is None


@pytest.mark.parametrize("codes", [[], ["LT601"], ["LT608"]])
def test_nobody_who_does_well_is_told(codes):
    assert suggest_normalization(step_of(stack(12), rows()), codes) is None


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_depth(depth):
    net = stack(depth) if depth > 1 else nn.Linear(8, 3)
    assert weight_depth(step_of(net, rows())) == depth
