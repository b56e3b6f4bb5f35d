from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules._loss_terms import loss_terms
from lightning_tuning.trace import Recorder


class Net(nn.Module):
    """Three outputs for each of eight samples; a head more for what needs two."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.b = nn.Linear(4, 3)


def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 4, generator=generator)
    return {
        "x": x,
        "y": torch.randint(3, (8,), generator=generator),
        "v": torch.randn(8, 3, generator=generator),
        "hot": F.one_hot(torch.randint(3, (8,), generator=generator), 3).float(),
        "mask": torch.rand(8, generator=generator) > 0.3,
    }


def terms(loss_of):
    net, data = Net(), batch()
    with Recorder(net, data) as recorder:
        recorder.mark_loss(loss_of(net, data))
    graph = recorder.graph
    assert graph.blind == []
    return graph, graph.answer(loss_terms)


def described(graph, found):
    def name(index):
        if index is None:
            return None
        maker = graph.producer(index)
        return graph.values[index].name if maker is None else maker.module or maker.name

    return [(term.kind, name(term.prediction), name(term.target), term.reduction) for term in found]


CE, BCE = "cross_entropy", "bce"
Y, V, HOT = "batch['y']", "batch['v']", "batch['hot']"

# fmt: off
BY_HAND = {
    "picked": (lambda n, d: -F.log_softmax(n.a(d["x"]), 1)[range(8), d["y"]].mean(), (CE, "a", Y, "mean")),
    "picked by arange": (lambda n, d: -F.log_softmax(n.a(d["x"]), 1)[torch.arange(8), d["y"]].sum(),
                         (CE, "a", Y, "sum")),
    "gathered": (lambda n, d: -n.a(d["x"]).log_softmax(-1).gather(1, d["y"].unsqueeze(1)).squeeze(1).mean(),
                 (CE, "a", Y, "mean")),
    "gathered, view": (lambda n, d: -n.a(d["x"]).log_softmax(-1).gather(1, d["y"].view(-1, 1)).sum() / 8,
                       (CE, "a", Y, "mean")),
    "one-hot": (lambda n, d: -(d["hot"] * F.log_softmax(n.a(d["x"]), 1)).sum(1).mean(), (CE, "a", HOT, "mean")),
    "one-hot, sum of all": (lambda n, d: -(F.log_softmax(n.a(d["x"]), 1) * d["hot"]).sum(), (CE, "a", HOT, "sum")),
    "log of softmax": (lambda n, d: -(d["hot"] * n.a(d["x"]).softmax(1).log()).sum(dim=1).mean(),
                       (CE, "a", HOT, "mean")),
    "log of softmax, epsilon": (lambda n, d: (-d["hot"] * torch.log(torch.softmax(n.a(d["x"]), 1) + 1e-8)).sum() / 8,
                                (CE, "a", "neg", "mean")),
    "log of softmax, clamped": (lambda n, d: -(d["hot"] * n.a(d["x"]).softmax(1).clamp(min=1e-8).log()).mean(),
                                (CE, "a", HOT, "mean")),
    "binary": (lambda n, d: -(d["hot"] * n.a(d["x"]).sigmoid().log()
                              + (1 - d["hot"]) * (1 - n.a(d["x"]).sigmoid()).log()).mean(), None),
    "square": (lambda n, d: (n.a(d["x"]) - d["v"]).square().mean(), ("mse", "a", V, "mean")),
    "square, turned": (lambda n, d: (d["v"] - n.a(d["x"])).pow(2).sum(1).mean(), ("mse", "a", V, "mean")),
    "power": (lambda n, d: ((n.a(d["x"]) - d["v"]) ** 2).sum(), ("mse", "a", V, "sum")),
    "power by name": (lambda n, d: torch.pow(n.a(d["x"]) - d["v"], exponent=2).mean(), ("mse", "a", V, "mean")),
    "half": (lambda n, d: 0.5 * ((n.a(d["x"]) - d["v"]) ** 2).mean(), ("mse", "a", V, "mean")),
    "mean of features, sum of samples": (lambda n, d: (n.a(d["x"]) - d["v"]).square().mean(1).sum(),
                                         ("mse", "a", V, "sum")),
    "sum, times a small number": (lambda n, d: 0.01 * (n.a(d["x"]) - d["v"]).square().sum(),
                                  ("mse", "a", V, "unknown")),
    "sum, divided by the size": (lambda n, d: (n.a(d["x"]) - d["v"]).square().sum() / d["x"].size(0),
                                 ("mse", "a", V, "mean")),
    "sum, divided by what": (lambda n, d: (n.a(d["x"]) - d["v"]).square().sum() / 7, ("mse", "a", V, "unknown")),
    "absolute": (lambda n, d: (n.a(d["x"]) - d["v"]).abs().mean(), ("l1", "a", V, "mean")),
    "absolute, function": (lambda n, d: torch.mean(torch.abs(torch.sub(d["v"], n.a(d["x"])))), ("l1", "a", V, "mean")),
    "softplus": (lambda n, d: F.softplus(-n.a(d["x"])).mean(), ("other", "softplus", None, "mean")),
    "mere mean": (lambda n, d: -n.a(d["x"]).mean(), ("other", "a", None, "mean")),
    "entropy": (lambda n, d: -(n.a(d["x"]).softmax(1) * n.a(d["x"]).log_softmax(1)).sum(1).mean(),
                None),
    "least squares GAN": (lambda n, d: (n.a(d["x"]) - 1).square().mean(), ("other", "square", None, "mean")),
    "variance": (lambda n, d: (n.a(d["x"]) - n.a(d["x"]).mean(0)).square().mean(), ("other", "square", None, "mean")),
}
# fmt: on


@pytest.mark.parametrize("name", [name for name, (_, expected) in BY_HAND.items() if expected is not None])
def test_a_loss_written_by_hand_is_read(name):
    loss_of, expected = BY_HAND[name]
    graph, found = terms(loss_of)
    assert described(graph, found) == [expected]
    assert found[0].by_hand


def binary_by_hand(net, data):
    p = net.a(data["x"]).sigmoid()
    return -(data["hot"] * p.log() + (1 - data["hot"]) * (1 - p).log()).mean()


def test_binary_cross_entropy_by_hand_is_one_term():
    graph, found = terms(binary_by_hand)
    assert described(graph, found) == [(BCE, "sigmoid", HOT, "mean")]
    assert not found[0].is_weighted


@pytest.mark.parametrize("name", ["entropy", "binary"])
def test_two_calls_of_a_net_are_not_taken_for_one(name):
    _, found = terms(BY_HAND[name][0])
    assert [term.kind for term in found] == ["other"]


FUNCTIONS = {
    "mean": (lambda n, d: F.cross_entropy(n.a(d["x"]), d["y"]), (CE, "a", Y, "mean")),
    "sum": (lambda n, d: F.cross_entropy(n.a(d["x"]), d["y"], reduction="sum"), (CE, "a", Y, "sum")),
    "sum over size": (lambda n, d: F.mse_loss(n.a(d["x"]), d["v"], reduction="sum") / 8, ("mse", "a", V, "mean")),
    "sum over mask": (
        lambda n, d: F.mse_loss(n.a(d["x"]), d["v"], reduction="sum") / d["mask"].sum(),
        ("mse", "a", V, "mean"),
    ),
    "none, mean": (lambda n, d: F.cross_entropy(n.a(d["x"]), d["y"], reduction="none").mean(), (CE, "a", Y, "mean")),
    "none, sum": (lambda n, d: F.cross_entropy(n.a(d["x"]), d["y"], reduction="none").sum(), (CE, "a", Y, "sum")),
    "none, features, mean": (
        lambda n, d: F.mse_loss(n.a(d["x"]), d["v"], reduction="none").sum(1).mean(),
        ("mse", "a", V, "mean"),
    ),
    "sum of samples, mean of features": (
        lambda n, d: F.mse_loss(n.a(d["x"]), d["v"], reduction="none").sum(0).mean(),
        ("mse", "a", V, "unknown"),
    ),
    "batchmean": (
        lambda n, d: F.kl_div(n.a(d["x"]).log_softmax(1), d["hot"], reduction="batchmean"),
        ("other", "log_softmax", HOT, "mean"),
    ),
    "module": (
        lambda n, d: nn.BCEWithLogitsLoss(reduction="sum")(n.a(d["x"]), d["hot"]),
        ("bce_logits", "a", HOT, "sum"),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_loss_function_is_read(name):
    loss_of, expected = FUNCTIONS[name]
    graph, found = terms(loss_of)
    assert described(graph, found) == [expected]
    assert not found[0].by_hand


WEIGHTED = {
    "class weights": lambda n, d: F.cross_entropy(n.a(d["x"]), d["y"], weight=torch.ones(3)),
    "focal": lambda n, d: (
        (1 - torch.exp(-F.cross_entropy(n.a(d["x"]), d["y"], reduction="none"))) ** 2
        * F.cross_entropy(n.a(d["x"]), d["y"], reduction="none")
    ).mean(),
    "mask": lambda n, d: (F.cross_entropy(n.a(d["x"]), d["y"], reduction="none") * d["mask"]).sum() / d["mask"].sum(),
    "mask by hand": lambda n, d: (
        (-F.log_softmax(n.a(d["x"]), 1).gather(1, d["y"][:, None])[:, 0] * d["mask"]).sum() / d["mask"].sum()
    ),
    "weights by hand": lambda n, d: (d["v"].abs() * (n.a(d["x"]) - d["v"]).square()).mean(),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_of_samples_and_classes_are_noticed(name):
    _, found = terms(WEIGHTED[name])
    assert any(term.is_weighted for term in found)
    assert {term.reduction for term in found if term.is_weighted} == {"mean"}


def test_a_factor_of_the_whole_loss_is_no_weight():
    _, found = terms(lambda n, d: 0.5 * F.mse_loss(n.a(d["x"]), d["v"]) + 2 * F.cross_entropy(n.b(d["x"]), d["y"]))
    assert [(term.kind, term.is_weighted) for term in found] == [("mse", False), (CE, False)]


def test_a_weighted_sum_gives_each_of_its_terms():
    def loss_of(net, data):
        kl = -0.5 * (1 + net.b(data["x"]) - net.b(data["x"]).exp()).sum()
        penalty = sum(parameter.square().sum() for parameter in net.parameters())
        picked = -F.log_softmax(net.a(data["x"]), 1)[range(8), data["y"]].mean()
        return F.mse_loss(net.a(data["x"]), data["v"], reduction="sum") + 0.1 * kl + 1e-4 * penalty + 2 * picked

    _, found = terms(loss_of)
    assert sorted(term.kind for term in found) == [CE, "mse", "other"]


def test_losses_in_a_list_are_terms():
    def loss_of(net, data):
        losses = [(net.a(data["x"]) - data["v"]).abs().mean(), F.cross_entropy(net.b(data["x"]), data["y"])]
        return torch.stack(losses).mean()

    graph, found = terms(loss_of)
    assert sorted((kind, where) for kind, where, _, _ in described(graph, found)) == [(CE, "b"), ("l1", "a")]


def test_policy_gradients_are_weighted():
    def loss_of(net, data):
        chosen = F.log_softmax(net.a(data["x"]), 1).gather(1, data["y"][:, None]).squeeze(1)
        return -(chosen * data["v"][:, 0]).mean()

    _, found = terms(loss_of)
    assert [(term.kind, term.is_weighted) for term in found] == [(CE, True)]


def test_a_metric_of_torchmetrics_is_read_through():
    from torchmetrics.functional import mean_squared_error

    _, found = terms(lambda n, d: mean_squared_error(n.a(d["x"]), d["v"]))
    assert [(term.kind, term.reduction) for term in found] == [("mse", "mean")]


def test_what_reaches_no_loss_is_no_term():
    def loss_of(net, data):
        F.mse_loss(net.b(data["x"]), data["v"])
        return F.cross_entropy(net.a(data["x"]), data["y"])

    _, found = terms(loss_of)
    assert [term.kind for term in found] == [CE]


def test_a_loss_of_the_weights_alone_has_no_terms():
    _, found = terms(lambda n, d: sum(parameter.square().sum() for parameter in n.parameters()))
    assert found == []
