from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules.detached_graph import detached
from tests.rules.heads import CLASSES, traced


class Net(nn.Module):
    """An encoder, a head on it, and a twin of the encoder."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16))
        self.head = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, CLASSES))
        self.twin = copy.deepcopy(self.encoder)
        self.gain = nn.Parameter(torch.ones(8))


def names(net, *parts):
    return {name for name, _ in net.named_parameters() if name.split(".")[0] in parts}


def ce(net, d, features):
    return F.cross_entropy(net.head(features), d["y"])


def with_numpy(net, d):
    return ce(net, d, torch.from_numpy(net.encoder(d["x"]).detach().numpy()))


def with_list(net, d):
    return ce(net, d, torch.tensor(net.encoder(d["x"]).tolist()))


def without_grad(net, d):
    with torch.no_grad():
        features = net.encoder(d["x"])
    return ce(net, d, features)


def bare_parameter(net, d):
    with torch.no_grad():
        x = d["x"] * net.gain
    return ce(net, d, net.encoder(x))


SICK = {
    "detach": (lambda n, d: ce(n, d, n.encoder(d["x"]).detach()), "detach", "encoder", "error"),
    "detach, then views": (
        lambda n, d: ce(n, d, n.encoder(d["x"]).detach().view(4, 4, 16).relu().view(16, 16)),
        "detach",
        "encoder",
        "error",
    ),
    "data": (lambda n, d: ce(n, d, n.encoder(d["x"]).data), "data", "encoder", "error"),
    "new tensor": (lambda n, d: ce(n, d, n.encoder(d["x"]).detach().clone().requires_grad_()), "detach", "encoder",
                   "error"),
    "numpy": (with_numpy, "numpy", "encoder", "error"),
    "list": (with_list, "tolist", "encoder", "error"),
    "a whole module without gradients": (without_grad, "no_grad", "encoder", "info"),
    "a bare parameter without gradients": (bare_parameter, "no_grad", "", "error"),
    "weights by data": (
        lambda n, d: ce(n, d, n.encoder(d["x"] * n.gain.data)),
        "data",
        "",
        "error",
    ),
    "a term without gradient": (
        lambda n, d: ce(n, d, n.encoder(d["x"])) + n.twin(d["x"]).square().mean().detach(),
        "detach",
        "twin",
        "error",
    ),
    "the loss itself": (lambda n, d: ce(n, d, n.encoder(d["x"])).detach().requires_grad_(), "detach", None, "error"),
}  # fmt: skip


@pytest.mark.parametrize("name", SICK)
def test_a_cut_is_found_and_named(name):
    loss_of, cut, where, severity = SICK[name]
    net = Net()
    found = [one.finding for one in detached(traced(net, loss_of), names(net, "encoder", "head", "twin", "gain"))]
    assert [(finding.code, finding.evidence["cut"], str(finding.severity)) for finding in found] == [
        ("LT414", cut, severity)
    ]
    assert found[0].source_line
    assert where is None or found[0].where == where


def test_an_extractor_in_eval_mode_is_deliberate_however_it_is_cut():
    net = Net()
    net.encoder.eval()
    (cut,) = detached(traced(net, SICK["detach"][0]), names(net, "encoder", "head"))
    assert cut.is_deliberate


def test_a_number_is_followed_by_its_echo():
    net = Net()

    def loss_of(net, d):
        return ce(net, d, net.encoder(d["x"])) + net.twin(d["x"]).square().mean().item()

    graph = traced(net, loss_of)
    trained = names(net, "encoder", "head", "twin")
    assert detached(graph, trained) == []
    (read,), (echo,) = graph.find("item"), [op for op in graph.find("add") if "other" in op.arguments]
    (cut,) = detached(graph, trained, {read.index: [echo.index]})
    assert (cut.where, cut.finding.evidence["cut"]) == ("twin", "item")


def teacher(net, d):
    with torch.no_grad():
        target = net.twin(d["x"])
    return F.mse_loss(net.encoder(d["x"]), target) + ce(net, d, net.encoder(d["x"]))


def byol(net, d):
    online, target = net.encoder(d["x"]), net.twin(d["x"]).detach()
    return -F.cosine_similarity(online, target).mean() + ce(net, d, online)


def simsiam(net, d):
    one, two = net.encoder(d["x"]), net.encoder(d["x"] + 0.1)
    return -F.cosine_similarity(one, two.detach()).mean() - F.cosine_similarity(two, one.detach()).mean()


def pseudo_labels(net, d):
    labels = net.head(net.twin(d["x"]).detach()).argmax(1).detach()
    return F.cross_entropy(net.head(net.encoder(d["x"])), labels)


def temporal_difference(net, d):
    with torch.no_grad():
        target = d["v"][:, :1] + 0.9 * net.encoder(d["x"] + 1).max(1, keepdim=True).values
    return F.smooth_l1_loss(net.encoder(d["x"])[:, :1], target)


def straight_through(net, d):
    features = net.encoder(d["x"])
    quantized = net.twin(d["x"])  # of a codebook that moves by averages
    return ce(net, d, features + (quantized - features).detach())


def auxiliary_probe(net, d):
    features = net.encoder(d["x"])
    return ce(net, d, features) + ce(net, d, features.detach())


def adaptive_weight(net, d):
    weight = net.twin(d["x"]).norm().detach()
    return ce(net, d, net.encoder(d["x"])) * weight


def metric(net, d):
    net.twin(d["x"]).detach().numpy().mean()
    net.twin(d["x"]).mean().item()
    return ce(net, d, net.encoder(d["x"]))


def average(net, d):
    with torch.no_grad():
        for old, new in zip(net.twin.parameters(), net.encoder.parameters(), strict=True):
            old.mul_(0.9).add_(new, alpha=0.1)
        target = net.twin(d["x"])
    return F.mse_loss(net.encoder(d["x"]), target)


def constants(net, d):
    """What comes from outside has the shape of what was read, but was there before it was read."""
    noise = torch.tensor([[0.5] * 16] * 16)
    loss = ce(net, d, noise) + net.encoder(d["x"]).square().mean()
    net.twin(d["x"]).detach().numpy()
    return loss


QUIET = {
    "plain": lambda n, d: ce(n, d, n.encoder(d["x"])),
    "teacher": teacher,
    "BYOL": byol,
    "SimSiam": simsiam,
    "pseudo labels": pseudo_labels,
    "temporal difference": temporal_difference,
    "straight-through": straight_through,
    "auxiliary probe": auxiliary_probe,
    "adaptive weight": adaptive_weight,
    "metric": metric,
    "moving average": average,
    "constants": constants,
}


@pytest.mark.parametrize("name", QUIET)
def test_gradients_that_are_stopped_on_purpose_are_left_alone(name):
    net = Net()
    assert detached(traced(net, QUIET[name]), names(net, "encoder", "head", "twin", "gain")) == []


def test_what_no_optimizer_holds_is_left_alone():
    net = Net()
    assert detached(traced(net, SICK["detach"][0]), names(net, "head")) == []


def test_a_frozen_extractor_is_left_alone():
    net = Net()
    net.encoder.requires_grad_(False)
    assert detached(traced(net, without_grad), names(net, "head")) == []


def test_reentrant_checkpoints_carry_gradients():
    from torch.utils.checkpoint import checkpoint

    net = Net()

    def loss_of(net, d):
        return ce(net, d, checkpoint(net.encoder, d["x"].clone().requires_grad_(), use_reentrant=True))

    assert detached(traced(net, loss_of), names(net, "encoder", "head")) == []
