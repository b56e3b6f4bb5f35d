"""LT205: weights too large or small for the activation that the trace shows behind them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_tuning.rules.init_activation_mismatch import init_activation_mismatches
from tests.rules.first_steps import Functional, first_step


def drawn(layer: nn.Module, std: float) -> nn.Module:
    nn.init.normal_(layer.weight, std=std)
    return layer


def uniform(layer: nn.Module, low: float, high: float) -> nn.Module:
    nn.init.uniform_(layer.weight, low, high)
    return layer


def net(layer: nn.Module, *between: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer, *between, nn.Linear(64, 3))


def images(layer: nn.Module, *between: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer, *between, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3))


class Residual(nn.Module):
    """The activation comes behind the addition."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(64, 64), drawn(nn.Linear(64, 64), std), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.branch(x.relu())).relu())


class Scores(nn.Module):
    """Products of two activations, and no activation function behind the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.head = drawn(nn.Linear(64, 64), 1.0), drawn(nn.Linear(64, 64), 1.0), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.query(x) @ self.key(x).t()).softmax(1))


FLAT, IMAGE = (16, 64), (4, 64, 6, 6)
SICK: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str]] = {
    "large": (lambda: net(drawn(nn.Linear(64, 64), 1.0), nn.ReLU()), FLAT, "0.weight", "He for relu is 1.41"),
    "small": (lambda: net(drawn(nn.Linear(64, 64), 1e-3), nn.ReLU()), FLAT, "0.weight", "by 0.008"),
    "tanh": (lambda: net(drawn(nn.Linear(64, 64), 1.0), nn.Tanh()), FLAT, "0.weight", "Xavier for tanh is 1.67"),
    "selu": (lambda: net(drawn(nn.Linear(64, 64), 1.0), nn.SELU()), FLAT, "0.weight", "LeCun for selu is 1"),
    "behind dropout": (
        lambda: net(drawn(nn.Linear(64, 64), 1.0), nn.Dropout(0.1), nn.GELU()), FLAT, "0.weight", "gelu"
    ),
    "8.5 times he": (
        lambda: images(drawn(nn.Conv2d(64, 64, 3), 0.5), nn.ReLU()), IMAGE, "0.weight", "at fan-in 576"
    ),
    "skewed": (
        lambda: net(uniform(nn.Linear(64, 64), -1, 0.1), nn.ReLU()), FLAT, "0.weight", "(mean -0.4"
    ),
    "functional": (lambda: Functional(torch.randn(64, 32), torch.randn(32, 3)), FLAT, "first", "by 8."),
    "residual": (lambda: Residual(1.0), FLAT, "branch.weight", "He for relu"),
}  # fmt: skip

HEALTHY: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "default": (lambda: net(nn.Linear(64, 64), nn.ReLU()), FLAT),
    "he": (lambda: net(drawn(nn.Linear(64, 64), (2 / 64) ** 0.5), nn.ReLU()), FLAT),
    "a norm sets the size anew": (
        lambda: net(drawn(nn.Linear(64, 64), 1.0), nn.BatchNorm1d(64), nn.ReLU()), FLAT
    ),
    "zeros": (lambda: net(drawn(nn.Linear(64, 64), 0.0), nn.ReLU()), FLAT),
    "a constant is LT203's": (lambda: net(uniform(nn.Linear(64, 64), 1, 1), nn.ReLU()), FLAT),
    "gpt-2": (lambda: net(drawn(nn.Linear(64, 64), 0.02), nn.GELU()), FLAT),
    "output": (lambda: drawn(nn.Linear(64, 3), 1e-4), FLAT),
    "bounded output": (lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), drawn(nn.Linear(64, 3), 1e-4), nn.Tanh()),
                       FLAT),
    "an actor's head": (lambda: nn.Sequential(drawn(nn.Linear(64, 4), 1e-3), nn.Tanh(), nn.Linear(4, 3)), FLAT),
    "frozen features": (lambda: net(drawn(nn.Linear(64, 64), 10.0).requires_grad_(False), nn.ReLU()), FLAT),
    "attention": (Scores, FLAT),
    "residual": (lambda: Residual(0.02), FLAT),
}  # fmt: skip


@pytest.mark.parametrize("case", SICK)
def test_sick(case: str) -> None:
    torch.manual_seed(0)
    make, shape, where, words = SICK[case]
    step = first_step(make(), torch.randn(shape))
    (finding,) = init_activation_mismatches(step.graph, step.facts)
    assert finding.where == where
    assert words in finding.message


@pytest.mark.parametrize("case", HEALTHY)
def test_healthy(case: str) -> None:
    torch.manual_seed(0)
    make, shape = HEALTHY[case]
    step = first_step(make(), torch.randn(shape))
    assert [finding.message for finding in init_activation_mismatches(step.graph, step.facts)] == []


def test_weights_that_are_not_finite_are_not_judged() -> None:
    layer = nn.Linear(64, 64)
    layer.weight.data[0, 0] = float("nan")
    step = first_step(net(layer, nn.ReLU()), torch.randn(FLAT))
    assert init_activation_mismatches(step.graph, step.facts) == []


def test_blind() -> None:
    step = first_step(net(drawn(nn.Linear(64, 64), 1.0), nn.ReLU()), torch.randn(FLAT))
    step.graph.blind.append("Something was compiled.")
    assert init_activation_mismatches(step.graph, step.facts) == []
