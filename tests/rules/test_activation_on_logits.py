from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules.activation_on_logits import activations_on_logits
from tests.rules.heads import CLASSES, data, traced


def ce(net, d):
    return F.cross_entropy(net(d["x"]), d["y"])


def bce(net, d):
    return F.binary_cross_entropy_with_logits(net(d["x"]), d["hot"])


def head(*last):
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES), *last)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, CLASSES))
        self.bias = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, x):
        return torch.relu(x @ self.weight + self.bias).reshape(-1, CLASSES)


class Clamp(nn.Module):
    def __init__(self, **bounds):
        super().__init__()
        self.bounds = bounds

    def forward(self, x):
        return x.clamp(**self.bounds)


SICK = {
    "relu": (head(nn.ReLU()), ce, "error", "3"),
    "relu in place": (head(nn.ReLU(inplace=True)), ce, "error", "3"),
    "functional": (Functional(), ce, "error", ""),
    "relu, binary": (head(nn.ReLU()), bce, "error", "3"),
    "relu6": (head(nn.ReLU6()), ce, "error", "3"),
    "relu behind a norm": (head(nn.BatchNorm1d(CLASSES), nn.ReLU()), ce, "error", "4"),
    "relu, then dropout": (head(nn.ReLU(), nn.Dropout(0.1)), ce, "error", "3"),
    "relu, nll": (head(nn.ReLU(), nn.LogSoftmax(1)), lambda n, d: F.nll_loss(n(d["x"]), d["y"]), "error", "3"),
    "relu, by hand": (
        head(nn.ReLU()),
        lambda n, d: -F.log_softmax(n(d["x"]), 1)[range(16), d["y"]].mean(),
        "error",
        "3",
    ),
    "clamp": (head(Clamp(min=0)), ce, "error", "3"),
    "tanh": (head(nn.Tanh()), ce, "warning", "3"),
    "tanh, binary": (head(nn.Tanh()), bce, "warning", "3"),
    "sigmoid": (head(nn.Sigmoid()), ce, "warning", "3"),
    "gelu": (head(nn.GELU()), ce, "info", "3"),
}


@pytest.mark.parametrize("name", SICK)
def test_activations_before_a_loss_of_logits_are_found(name):
    net, loss_of, severity, where = SICK[name]
    (finding,) = activations_on_logits(traced(net, loss_of))
    assert (finding.code, str(finding.severity), finding.where) == ("LT316", severity, where)


class SoftCap(nn.Module):
    def forward(self, x):
        return 30 * torch.tanh(x / 30)


class SqueezeNetHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, CLASSES, 3)

    def forward(self, x):
        return F.adaptive_avg_pool2d(self.conv(x).relu(), 1).flatten(1)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.scores = nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.gate(x).sigmoid() * self.scores(x)


QUIET = {
    "logits": (head(), ce),
    "soft cap": (head(SoftCap()), ce),
    "leaky relu": (head(nn.LeakyReLU(0.1)), ce),
    "bounded from both sides": (head(Clamp(min=-20, max=20)), ce),
    "bounded from below": (head(Clamp(min=-20)), ce),
    "gated": (Gated(), ce),
    "bounded regression": (head(nn.Tanh()), lambda n, d: F.mse_loss(n(d["x"]), d["v"])),
    "counts": (head(nn.ReLU()), lambda n, d: F.poisson_nll_loss(n(d["x"]), d["hot"], log_input=False)),
    "sigmoid before a binary loss (LT314)": (head(nn.Sigmoid()), bce),
    "probabilities": (head(nn.Sigmoid()), lambda n, d: F.binary_cross_entropy(n(d["x"]), d["hot"])),
}


@pytest.mark.parametrize("name", QUIET)
def test_what_belongs_there_is_left_alone(name):
    assert activations_on_logits(traced(*QUIET[name])) == []


def test_scores_that_are_pooled_behind_their_relu_are_left_alone():
    batch = {**data(), "x": torch.randn(16, 1, 8, 8)}
    assert activations_on_logits(traced(SqueezeNetHead(), ce, batch)) == []
