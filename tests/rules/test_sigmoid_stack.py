from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules.sigmoid_stack import LT319, sigmoid_stacks
from tests.rules.heads import CLASSES, data, traced


def ce(net, d):
    return F.cross_entropy(net(d["x"]), d["y"])


def deep(hidden, activation, *between):
    layers = []
    for number in range(hidden):
        layers += [nn.Linear(16 if number else 8, 16), *(part() for part in between), activation()]
    return nn.Sequential(*layers, nn.Linear(16, CLASSES))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(8, 8) for _ in range(3))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        for weight in self.weights:
            x = torch.tanh(x @ weight)
        return self.head(x)


@pytest.mark.parametrize(
    ("net", "layers"),
    [
        (deep(3, nn.Sigmoid), 3),
        (deep(5, nn.Tanh), 5),
        (deep(3, nn.Sigmoid, lambda: nn.Dropout(0.1)), 3),
        (Functional(), 3),
    ],
)
def test_three_in_a_row_are_found(net, layers):
    (finding,) = sigmoid_stacks(traced(net, ce))
    assert (finding.code, str(finding.severity), finding.evidence["layers"]) == ("LT319", "info", layers)


class Gates(nn.Module):
    """Four layers, each with a gate of its own."""

    def __init__(self):
        super().__init__()
        self.layers, self.gates = (nn.ModuleList(nn.Linear(8, 8) for _ in range(4)) for _ in range(2))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        for layer, gate in zip(self.layers, self.gates, strict=True):
            x = layer(x) * gate(x).sigmoid()
        return self.head(x)


class Residual(Gates):
    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x).tanh()
        return self.head(x)


@pytest.mark.parametrize(
    "net",
    [
        deep(2, nn.Tanh),
        deep(4, nn.ReLU),
        deep(4, nn.Sigmoid, lambda: nn.BatchNorm1d(16)),
        deep(4, nn.Tanh, lambda: nn.LayerNorm(16)),
        Gates(),
        Residual(),
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, CLASSES)),
    ],
)
def test_others_are_left_alone(net):
    assert sigmoid_stacks(traced(net, ce)) == []


def test_a_recurrent_net_is_left_alone():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(2, 8, num_layers=4, batch_first=True), nn.Linear(8, CLASSES)

        def forward(self, x):
            return self.head(self.lstm(x.view(16, 4, 2))[0][:, -1])

    assert sigmoid_stacks(traced(Net(), ce)) == []


@pytest.mark.parametrize("in_the_step", [False, True])
def test_a_physics_informed_net_needs_smooth_activations(in_the_step):
    batch = data()
    batch["x"].requires_grad_(not in_the_step)

    def loss_of(net, d):
        x = d["x"].clone().requires_grad_(True) if in_the_step else d["x"]
        return F.cross_entropy(net(torch.cat([x[:, :4], x[:, 4:]], dim=1)), d["y"])

    assert sigmoid_stacks(traced(deep(4, nn.Tanh), loss_of, batch)) == []


def test_nets_that_learn_with_tanh_do_not_hear_of_it():
    assert LT319.kind == "advice"
