"""What trained weights look like, and what fresh ones do, however they were drawn."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.rules._trained import seem_trained
from tests.rules.first_steps import first_step


def mlp(norm: bool = False) -> nn.Sequential:
    middle = [nn.LayerNorm(32)] if norm else []
    return nn.Sequential(nn.Linear(8, 32), *middle, nn.ReLU(), nn.Linear(32, 3))


def drawn(fill: Callable[[torch.Tensor], object], *, biases: bool) -> nn.Module:
    net = mlp()
    for name, parameter in net.named_parameters():
        if biases or name.endswith("weight"):
            fill(parameter)
    return net


def he() -> nn.Module:
    net = drawn(nn.init.kaiming_normal_, biases=False)
    nn.init.zeros_(net[0].bias)
    nn.init.constant_(net[2].bias, -4.6)
    return net


FRESH = {
    "default": mlp,
    "norm": lambda: mlp(norm=True),
    "he": he,
    "one loop over all": lambda: drawn(lambda p: nn.init.uniform_(p, -0.1, 0.1), biases=True),
    "one bad loop over all": lambda: drawn(lambda p: nn.init.normal_(p, std=2.0), biases=True),
    "copied": lambda: copy.deepcopy(mlp(norm=True)),
    "lstm": lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)),
}


def trained(norm: bool) -> nn.Module:
    torch.manual_seed(0)
    net = mlp(norm)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    y = torch.arange(128) % 3
    x = torch.randn(128, 8) + y[:, None]
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net


def loaded(norm: bool) -> nn.Module:
    net = mlp(norm)
    net.load_state_dict(trained(norm).state_dict())
    return net


def seems(net: nn.Module, **more: bool) -> bool:
    step = first_step(net, torch.randn(16, 8), torch.zeros(16, dtype=torch.long))
    return seem_trained(step.graph, step.facts, **more)


@pytest.mark.parametrize("case", FRESH)
def test_fresh(case: str) -> None:
    torch.manual_seed(0)
    assert not seems(FRESH[case]())


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("make", [trained, loaded, lambda norm: copy.deepcopy(trained(norm))])
def test_trained(make: Callable[[bool], nn.Module], norm: bool) -> None:
    assert seems(make(norm))


def test_statistics_say_so() -> None:
    assert seems(mlp(), has_statistics=True)
