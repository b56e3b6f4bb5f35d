from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules.clipped_loss import clipped_losses
from tests.rules.heads import CLASSES, traced


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)
        self.scale = nn.Parameter(torch.tensor(2.0))


def ce(net, d, **more):
    return F.cross_entropy(net.a(d["x"]), d["y"], **more)


SICK = {
    "clamp": lambda n, d: ce(n, d).clamp(max=5),
    "clamp on both sides": lambda n, d: torch.clamp(ce(n, d), 0.0, 5.0),
    "clip": lambda n, d: torch.clip(ce(n, d), max=5.0),
    "minimum": lambda n, d: torch.minimum(ce(n, d), torch.tensor(5.0)),
    "of a term": lambda n, d: 0.5 * ce(n, d).clamp(max=5) + F.mse_loss(n.b(d["x"]), d["v"]),
    "by hand": lambda n, d: (n.a(d["x"]) - d["v"]).square().mean().clamp(max=5.0),
}


@pytest.mark.parametrize("name", SICK)
def test_an_upper_bound_on_the_loss_is_found(name):
    (finding,) = clipped_losses(traced(Net(), SICK[name]))
    assert (finding.code, str(finding.severity)) == ("LT412", "info")
    assert finding.source_line


def ppo(net, d):
    ratio = (net.a(d["x"]).log_softmax(1)[range(16), d["y"]] - d["v"][:, 0]).exp()
    return -torch.min(ratio * d["v"][:, 1], ratio.clamp(0.8, 1.2) * d["v"][:, 1]).mean()


def free_bits(net, d):
    mu, logvar = net.a(d["x"]), net.b(d["x"])
    return ce(net, d) + (-0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()).clamp(min=0.5)


QUIET = {
    "loss": ce,
    "PPO": ppo,
    "Huber": lambda n, d: F.huber_loss(n.a(d["x"]), d["v"]),
    "elements": lambda n, d: ce(n, d, reduction="none").clamp(max=5).mean(),
    "free bits": free_bits,
    "temperature": lambda n, d: F.cross_entropy(n.a(d["x"]) * n.scale.exp().clamp(max=100), d["y"]),
    "logits": lambda n, d: F.cross_entropy(n.a(d["x"]).clamp(-10, 10), d["y"]),
    "probabilities": lambda n, d: -(d["hot"] * n.a(d["x"]).softmax(1).clamp(1e-6, 1).log()).sum(1).mean(),
    "for the log": lambda n, d: [ce(n, d).clamp(max=5), ce(n, d)][1],
    "detached weight": lambda n, d: ce(n, d) * ce(n, d).detach().clamp(max=5),
}


@pytest.mark.parametrize("name", QUIET)
def test_other_bounds_are_left_alone(name):
    assert clipped_losses(traced(Net(), QUIET[name])) == []
