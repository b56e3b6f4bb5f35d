from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules.sum_reduction import sum_reduction
from tests.rules.heads import CLASSES, data, traced


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)


def a(net, d):
    return net.a(d["x"])


SICK = {
    "argument": lambda n, d: F.cross_entropy(a(n, d), d["y"], reduction="sum"),
    "module": lambda n, d: nn.MSELoss(reduction="sum")(a(n, d), d["v"]),
    "unreduced, summed": lambda n, d: F.cross_entropy(a(n, d), d["y"], reduction="none").sum(),
    "mean of features, summed": lambda n, d: F.mse_loss(a(n, d), d["v"], reduction="none").mean(1).sum(),
    "by hand": lambda n, d: (a(n, d) - d["v"]).square().sum(),
    "by hand, classes": lambda n, d: -a(n, d).log_softmax(1).gather(1, d["y"][:, None]).sum(),
    "divided by 1": lambda n, d: F.mse_loss(a(n, d), d["v"], reduction="sum") / 1,  # as Lightning does
    "with a penalty": lambda n, d: F.mse_loss(a(n, d), d["v"], reduction="sum") + 1e-4 * n.a.weight.square().sum(),
}


@pytest.mark.parametrize("name", SICK)
def test_a_sum_over_the_samples_is_found(name):
    finding = sum_reduction(traced(Net(), SICK[name]))
    assert finding is not None
    assert (finding.code, str(finding.severity), finding.evidence["samples"]) == ("LT410", "warning", 16)


def elbo(net, d):
    mu, logvar = a(net, d), net.b(d["x"])
    divergence = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum()
    return F.mse_loss(mu, d["v"], reduction="sum") + divergence


def actor_critic(net, d):
    policy = -(a(net, d).log_softmax(1).gather(1, d["y"][:, None])[:, 0] * d["v"][:, 0]).sum()
    return policy + F.smooth_l1_loss(net.b(d["x"])[:, 0], d["v"][:, 0], reduction="sum")


def detection(net, d):
    found = d["y"] > 0
    boxes = F.l1_loss(a(net, d)[found], d["v"][found], reduction="sum")
    return boxes + F.binary_cross_entropy_with_logits(net.b(d["x"]), d["hot"], reduction="sum")


QUIET = {
    "mean": lambda n, d: F.cross_entropy(a(n, d), d["y"]),
    "over the size": lambda n, d: F.cross_entropy(a(n, d), d["y"], reduction="sum") / len(d["x"]),
    "over any number": lambda n, d: F.cross_entropy(a(n, d), d["y"], reduction="sum") / 10,
    "over tokens": lambda n, d: F.cross_entropy(a(n, d), d["y"], reduction="sum") / (d["y"] >= 0).sum(),
    "times a small number": lambda n, d: F.mse_loss(a(n, d), d["v"], reduction="sum") * 0.05,
    "features summed": lambda n, d: F.mse_loss(a(n, d), d["v"], reduction="none").sum(1).mean(),
    "weights that may be normalized": lambda n, d: (
        F.cross_entropy(a(n, d), d["y"], reduction="none") * d["v"][:, 0].softmax(0)
    ).sum(),
    "ELBO": elbo,
    "actor-critic": actor_critic,
    "detection": detection,
    "policy gradient": lambda n, d: -(a(n, d).log_softmax(1)[range(16), d["y"]] * d["v"][:, 0]).sum(),
    "likelihood of a flow": lambda n, d: (a(n, d).square() - n.b(d["x"])).sum(),
    "distillation": lambda n, d: F.mse_loss(a(n, d), n.b(d["x"]).detach(), reduction="sum"),
}


@pytest.mark.parametrize("name", QUIET)
def test_other_losses_are_left_alone(name):
    assert sum_reduction(traced(Net(), QUIET[name])) is None


def test_one_sample_has_no_sum():
    assert sum_reduction(traced(Net(), SICK["argument"], data(samples=1))) is None


def test_the_gradient_of_a_sum_grows_with_the_batch_and_that_of_a_mean_does_not():
    net, norms = Net(), {}
    for samples in (16, 256):
        d = data(samples=samples)
        for reduction in ("sum", "mean"):
            (gradient,) = torch.autograd.grad(F.mse_loss(a(net, d), d["v"], reduction=reduction), net.a.bias)
            norms[reduction, samples] = gradient.norm().item()
    assert norms["sum", 256] / norms["sum", 16] == pytest.approx(16 * norms["mean", 256] / norms["mean", 16], rel=1e-4)
