from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules.redundant_softmax import redundant_softmaxes
from tests.rules.heads import CLASSES, traced


def ce(net, d):
    return F.cross_entropy(net(d["x"]), d["y"])


def bce(net, d):
    return F.binary_cross_entropy_with_logits(net(d["x"]), d["hot"])


def nll(net, d):
    return F.nll_loss(F.log_softmax(net(d["x"]), 1), d["y"])


def by_hand(net, d):
    return -(d["hot"] * F.log_softmax(net(d["x"]), 1)).sum(1).mean()


def head(*last):
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES), *last)


class Exponentials(nn.Module):
    def forward(self, x):
        e = torch.exp(x)
        return e / e.sum(dim=1, keepdim=True)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, CLASSES))

    def forward(self, x):
        return torch.softmax(x @ self.weight, dim=-1).clamp(1e-6, 1).view(-1, CLASSES)


SICK = {
    "module": (head(nn.Softmax(dim=1)), ce, "3"),
    "functional, views between": (Functional(), ce, ""),
    "exponentials": (head(Exponentials()), ce, "3"),
    "temperature": (head(nn.Softmax(dim=1)), lambda n, d: F.cross_entropy(n(d["x"]) / 0.5, d["y"]), "3"),
    "before nll's log-softmax": (head(nn.Softmax(dim=1)), nll, "3"),
    "before a loss by hand": (head(nn.Softmax(dim=1)), by_hand, "3"),
    "sigmoid": (head(nn.Sigmoid()), bce, "3"),
    "softmax before a binary loss": (head(nn.Softmax(dim=1)), bce, "3"),
    "two sigmoids": (head(nn.Sigmoid()), lambda n, d: F.binary_cross_entropy(n(d["x"]).sigmoid(), d["hot"]), "3"),
}


@pytest.mark.parametrize("name", SICK)
def test_probabilities_as_logits_are_found(name):
    net, loss_of, where = SICK[name]
    (finding,) = redundant_softmaxes(traced(net, loss_of))
    assert (finding.code, str(finding.severity), finding.where) == ("LT314", "error", where)
    assert finding.source_line


def test_the_floor_is_that_of_the_number_of_classes():
    (finding,) = redundant_softmaxes(traced(head(nn.Softmax(dim=1)), ce))
    assert finding.evidence["floor"] == pytest.approx(math.log(math.e + 2) - 1)


def test_of_ten_and_of_thousand_classes_the_floor_is_the_published_one():
    for classes, floor in ((10, 1.46), (1000, 5.91)):
        best = F.cross_entropy(F.one_hot(torch.tensor([0]), classes).float(), torch.tensor([0]))
        assert best.item() == pytest.approx(floor, abs=0.005)


@pytest.mark.parametrize("last", [nn.LogSoftmax(dim=1), nn.Sequential(nn.Softmax(dim=1), Exponentials())])
def test_a_log_softmax_is_harmless_and_no_other(last):
    (finding,) = redundant_softmaxes(traced(head(last), ce))
    assert str(finding.severity) == ("info" if isinstance(last, nn.LogSoftmax) else "error")


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.score, self.value, self.head = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        weights = self.score(x).softmax(dim=1)
        return self.head(weights * self.value(x))


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(8, 2), nn.ModuleList(nn.Linear(8, CLASSES) for _ in range(2))

    def forward(self, x):
        gate = self.gate(x).softmax(1)
        return sum(gate[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))


def distilled(net, d):
    student, teacher = net(d["x"]), net(d["x"]).detach()
    soft = F.kl_div(F.log_softmax(student / 2, 1), F.softmax(teacher / 2, 1), reduction="batchmean")
    return soft + F.cross_entropy(student, teacher.softmax(1)) + F.cross_entropy(student, d["y"])


QUIET = {
    "cross entropy of logits": (head(), ce),
    "nll of log-probabilities": (head(nn.LogSoftmax(dim=1)), lambda n, d: F.nll_loss(n(d["x"]), d["y"])),
    "log-softmax by hand": (head(), by_hand),
    "log of softmax by hand": (head(nn.Softmax(dim=1)), lambda n, d: -(d["hot"] * n(d["x"]).log()).sum(1).mean()),
    "bce of sigmoid": (head(nn.Sigmoid()), lambda n, d: F.binary_cross_entropy(n(d["x"]), d["hot"])),
    "attention": (Attention(), ce),
    "mixture": (Mixture(), ce),
    "distillation": (head(), distilled),
    "regression of probabilities": (head(nn.Softmax(dim=1)), lambda n, d: F.mse_loss(n(d["x"]), d["hot"])),
    "softmax for a metric": (head(), lambda n, d: [n(d["x"]).softmax(1), ce(n, d)][1]),
}


@pytest.mark.parametrize("name", QUIET)
def test_what_belongs_there_is_left_alone(name):
    assert redundant_softmaxes(traced(*QUIET[name])) == []
