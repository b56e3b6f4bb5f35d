"""LT202 by tables, and the weights that are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.rules.gradient_spread import (
    comparable_weights,
    gradient_spread,
    is_adaptive,
    relative_gradients,
)
from tests.rules.first_steps import Functional, first_step


@pytest.mark.parametrize(
    ("looks", "adaptive", "found"),
    [
        ([{"a": 1e-3, "b": 1.0}] * 3, False, "a"),
        ([{"b": 1.0, "a": 1e-3}] * 3, True, None),  # 1000 is not above 1000
        ([{"b": 1.0, "a": 9e-4}] * 3, True, "a"),
        ([{"a": 1e-3, "b": 1.0}, {"a": 1e-2, "b": 1.0}, {"a": 1e-4, "b": 1.0}], False, None),  # calm once
        ([{"a": 1e-3, "b": 1.0}, {"a": math.nan, "b": 1.0}], False, None),
        ([{"a": math.inf, "b": 1.0}], False, None),
        ([{"a": 1e-3}], False, None),
        ([{}], False, None),
        ([], False, None),
    ],
)
def test_verdict(looks: list[Mapping[str, float]], adaptive: bool, found: str | None) -> None:
    finding = gradient_spread(looks, adaptive=adaptive, optimizer="SGD")
    assert (None if finding is None else finding.where) == found


def test_a_very_large_spread_is_said() -> None:
    finding = gradient_spread([{"a": 1e-7, "b": 1.0}], adaptive=True, optimizer="Adam")
    assert finding is not None
    assert "far above 100000" in finding.message


def test_relative_gradients() -> None:
    gradients = {"a": 1.0, "dead": 0.0, "zero": 2.0, "bias": 3.0}
    assert relative_gradients(gradients, {"a": 2.0, "dead": 1.0, "zero": 0.0, "absent": 1.0}) == {"a": 0.5}


@pytest.mark.parametrize(
    ("optimizer", "adaptive"),
    [(torch.optim.SGD, False), (torch.optim.AdamW, True), (torch.optim.RMSprop, True), (torch.optim.Adagrad, True)],
)
def test_families(optimizer: Callable[..., torch.optim.Optimizer], adaptive: bool) -> None:
    assert is_adaptive(optimizer([nn.Parameter(torch.ones(1))], lr=0.1)) is adaptive


class Branch(nn.Module):
    """``x + gate(branch(x))`` between a stem and a head."""

    def __init__(self, gate: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.gate(self.branch(x).relu()))


class Scale(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((8,), value))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x


class AdaZero(nn.Module):
    """The gate is what a layer of zeros makes of a condition (adaLN-zero)."""

    def __init__(self) -> None:
        super().__init__()
        self.condition = zeros(nn.Linear(8, 16))

    def forward(self, x: Tensor) -> Tensor:
        _, gate = self.condition(x.sigmoid()).chunk(2, dim=-1)
        return gate * x


def zeros(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def zero_norm() -> nn.Module:
    norm = nn.LayerNorm(8)
    nn.init.zeros_(norm.weight)
    return norm


@pytest.mark.parametrize(
    ("gate", "compared"),
    [
        (nn.Identity, {"stem", "branch", "head"}),
        (lambda: Scale(1.0), {"stem", "branch", "head"}),
        (lambda: nn.LayerNorm(8), {"stem", "branch", "head"}),
        (lambda: Scale(1e-4), {"stem", "head"}),  # LayerScale
        (lambda: Scale(0.0), {"stem", "head"}),  # ReZero
        (lambda: zeros(nn.Linear(8, 8)), {"stem", "head"}),  # LoRA's B, the last layer of a branch
        (zero_norm, {"stem", "head"}),
        (AdaZero, {"stem", "head"}),
    ],
    ids=["open", "scale 1", "norm", "layer scale", "rezero", "zero layer", "zero norm", "adaln zero"],
)
def test_what_is_behind_a_closed_gate_is_not_compared(gate: Callable[[], nn.Module], compared: set[str]) -> None:
    step = first_step(Branch(gate), torch.randn(4, 8))
    assert {name.split(".")[0] for name in comparable_weights(step.graph, step.facts)} == compared


def test_own_parameters_count_with_their_norms() -> None:
    step = first_step(Functional(torch.full((8, 4), 0.5), torch.ones(4, 3)), torch.randn(4, 8))
    assert comparable_weights(step.graph, step.facts) == pytest.approx({"first": 8**0.5, "second": 12**0.5})


def test_embeddings_frozen_weights_and_one_dimension_do_not() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.body, self.norm = nn.Embedding(5, 8), nn.Linear(8, 8), nn.LayerNorm(8)
            self.frozen = nn.Linear(8, 8).requires_grad_(False)

        def forward(self, ids: Tensor) -> Tensor:
            return F.linear(self.norm(self.frozen(self.body(self.tokens(ids)))), self.tokens.weight)  # tied

    step = first_step(Language(), torch.arange(4))
    assert list(comparable_weights(step.graph, step.facts)) == ["body.weight"]


def test_blind() -> None:
    step = first_step(nn.Linear(8, 3), torch.randn(4, 8))
    step.graph.blind.append("Something was compiled.")
    assert comparable_weights(step.graph, step.facts) == {}
