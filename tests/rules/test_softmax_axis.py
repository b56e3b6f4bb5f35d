from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules.softmax_axis import misplaced_softmaxes
from tests.rules.heads import CLASSES, data, traced


def head(outputs=CLASSES, *last):
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, outputs), *last)


def one(d):
    return (d["y"] == 0).float()


SICK = {
    "log-softmax, nll": (head(), lambda n, d: F.nll_loss(n(d["x"]).log_softmax(0), d["y"]), 0),
    "log of softmax, nll": (head(), lambda n, d: F.nll_loss((n(d["x"]).softmax(0) + 1e-9).log(), d["y"]), 0),
    "by hand": (head(), lambda n, d: -n(d["x"]).log_softmax(0)[range(16), d["y"]].mean(), 0),
    "by hand, picked before the logarithm": (
        head(),
        lambda n, d: -torch.log(n(d["x"]).softmax(0)[range(16), d["y"]] + 1e-8).mean(),
        0,
    ),
    "by hand, gathered before the logarithm": (
        head(),
        lambda n, d: -n(d["x"]).softmax(0).gather(1, d["y"][:, None]).log().mean(),
        0,
    ),
    "bce": (head(), lambda n, d: F.binary_cross_entropy(n(d["x"]).softmax(0), d["hot"]), 0),
    "bce of one output": (head(1), lambda n, d: F.binary_cross_entropy(n(d["x"]).softmax(1)[:, 0], one(d)), 1),
    "bce of one output, squeezed": (
        head(1, nn.Softmax(dim=-1)),
        lambda n, d: F.binary_cross_entropy(n(d["x"]).squeeze(), one(d)),
        1,
    ),
    "bce of one output, over the batch": (
        head(1),
        lambda n, d: F.binary_cross_entropy(n(d["x"]).squeeze(1).softmax(0), one(d)),
        0,
    ),
    "cross entropy of one class": (head(1), lambda n, d: F.cross_entropy(n(d["x"]), torch.zeros(16).long()), 1),
    "mse of one output": (head(1), lambda n, d: F.mse_loss(n(d["x"]).softmax(1), one(d)[:, None]), 1),
}


@pytest.mark.parametrize("name", SICK)
def test_the_wrong_axis_is_found(name):
    net, loss_of, axis = SICK[name]
    (finding,) = misplaced_softmaxes(traced(net, loss_of))
    assert (finding.code, str(finding.severity), finding.evidence["axis"]) == ("LT317", "error", axis)


class Router(nn.Module):
    def __init__(self, experts):
        super().__init__()
        self.gate, self.experts = nn.Linear(8, experts), nn.ModuleList(nn.Linear(8, CLASSES) for _ in range(experts))

    def forward(self, x):
        gate = self.gate(x).softmax(-1)
        return sum(gate[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))


class OneKey(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.head = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        q, k, v = (layer(x[:, None]) for layer in (self.q, self.k, self.v))
        weights = (q @ k.transpose(1, 2)).softmax(-1)
        return self.head((weights @ v)[:, 0])[:, :CLASSES]


def contrastive(net, d):
    z = F.normalize(net(d["x"]), dim=1)
    similarity = z @ F.normalize(net(d["x"] + 0.1), dim=1).T / 0.1
    rows = F.cross_entropy(similarity, torch.arange(16))
    return rows - similarity.log_softmax(dim=0).diagonal().mean()


def in_batch(net, d):
    weights = net(d["x"])[:, 0].detach().softmax(0)
    return (F.cross_entropy(net(d["x"]), d["y"], reduction="none") * weights).sum()


def pixels(net, d):
    scores = net(d["x"])[:, :, None, None].expand(-1, -1, 2, 2)
    return F.nll_loss(scores.log_softmax(1), d["y"][:, None, None].expand(-1, 2, 2))


def per_token(net, d):
    scores = net(d["x"]).view(4, 4, CLASSES)
    return F.nll_loss(scores.log_softmax(-1).view(-1, CLASSES), d["y"])


QUIET = {
    "classes": (head(), lambda n, d: F.nll_loss(n(d["x"]).log_softmax(1), d["y"])),
    "negative axis": (head(), lambda n, d: F.nll_loss(n(d["x"]).log_softmax(-1), d["y"])),
    "cross entropy": (head(), lambda n, d: F.cross_entropy(n(d["x"]), d["y"])),
    "by hand": (head(), lambda n, d: -n(d["x"]).log_softmax(1)[range(16), d["y"]].mean()),
    "router with one expert": (Router(1), lambda n, d: F.cross_entropy(n(d["x"]), d["y"])),
    "attention over one key": (OneKey(), lambda n, d: F.cross_entropy(n(d["x"]), d["y"])),
    "contrastive": (head(), contrastive),
    "weights over the batch": (head(), in_batch),
    "pixels": (head(), pixels),
    "tokens": (head(), per_token),
}


@pytest.mark.parametrize("name", QUIET)
def test_what_belongs_there_is_left_alone(name):
    assert misplaced_softmaxes(traced(*QUIET[name])) == []


def test_a_batch_of_one_says_nothing():
    def loss_of(net, d):
        return F.nll_loss(net(d["x"]).log_softmax(0), d["y"])

    assert misplaced_softmaxes(traced(head(), loss_of, data(samples=1))) == []


def test_the_implicit_axis_is_the_one_that_torch_takes():
    def loss_of(net, d):
        return F.nll_loss(F.log_softmax(net(d["x"]), _stacklevel=5), d["y"])

    with pytest.warns(UserWarning, match="Implicit dimension"):
        graph = traced(head(), loss_of)
    assert misplaced_softmaxes(graph) == []
