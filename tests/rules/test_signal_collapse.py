"""LT201 on plain stacks, by a table of signals; and what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightning_tuning.rules._ops import weight_layers
from lightning_tuning.rules.signal_collapse import Signal, signal_collapse
from tests.rules.first_steps import first_step


def plain(depth: int = 4) -> nn.Sequential:
    return nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(8, 8), nn.ReLU())], nn.Linear(8, 3))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + 1e-6 * self.branch(x.relu()))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None].expand(-1, 3, -1)
        return self.head(self.attention(x, x, x, need_weights=False)[0][:, 0])


def verdict(net: nn.Module, variations: list[float], rms: list[float] | None = None) -> list[tuple[str, str]]:
    step = first_step(net, torch.randn(16, 8), torch.zeros(16, dtype=torch.long))
    layers = step.graph.answer(weight_layers)
    sizes = rms or [1.0] * len(variations)
    signals = {op.index: Signal(v, r) for op, v, r in zip(layers, variations, sizes, strict=False)}
    return [(finding.code, finding.where) for finding in signal_collapse(step.graph, signals)]


@pytest.mark.parametrize(
    ("variations", "where"),
    [
        ([0.9, 0.6, 0.3, 0.02, 0.01], "4"),
        ([0.9, 0.02, 0.3, 0.02, 0.01], "4"),  # from there on it stays lost
        ([0.9, 0.02, 0.01, 1e-3, 1e-5], "0"),
        ([0.9, 0.0, 0.0, 0.0, 0.0], "0"),
    ],
)
def test_a_lost_signal(variations: list[float], where: str) -> None:
    assert verdict(plain(), variations) == [("LT201", where)]


@pytest.mark.parametrize(
    "variations",
    [
        [0.9, 0.6, 0.5, 0.4, 0.37],
        [0.9, 0.02, 0.02, 0.02, 0.3],  # a normalization has brought it back
        [0.01, 0.01, 0.01, 0.01, 0.01],  # it was never there
        [0.02, 0.01, 0.01, 0.01, 0.003],  # nor here
        [0.9, math.nan, 0.01, 0.01, 0.01],
        [0.9, 0.01],  # the others were not measured
        [],
    ],
)
def test_quiet(variations: list[float]) -> None:
    assert verdict(plain(), variations) == []


@pytest.mark.parametrize(
    ("rms", "found"),
    [
        ([1.0, 40.0, 1e3, 4e4, 2e6], [("LT201", "4")]),
        ([1.0, 40.0, 1e3, 4e4, 1.0], []),  # a normalization
        ([2e4, 2e4, 2e4, 2e4, 2e4], []),  # the input was as large
        ([1e-5, 0.1, 0.1, 0.1, 0.1], []),  # the biases' size
        ([1.0, 1.0, 1.0, 1.0, math.inf], []),
        ([1.0, 0.0, 0.0, 0.0, 0.0], []),
    ],
)
def test_growth(rms: list[float], found: list[tuple[str, str]]) -> None:
    assert verdict(plain(), [0.9] * 5, rms) == found


@pytest.mark.parametrize("net", [Residual(), Attention()], ids=["residual", "attention"])
def test_other_paths_may_carry_it(net: nn.Module) -> None:
    assert verdict(net, [0.9, 1e-4, 1e-4, 1e-4]) == []


def test_blind() -> None:
    step = first_step(plain(1), torch.randn(16, 8))
    step.graph.blind.append("Something was compiled.")
    signals = {op.index: Signal(0.9 / 100**i, 1.0) for i, op in enumerate(step.graph.answer(weight_layers))}
    assert signal_collapse(step.graph, signals) == []
