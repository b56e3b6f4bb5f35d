"""LT209: linear layers whose weight was replaced the wrong way round."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lightning_tuning.rules.weight_shape import transposed_linears


def replaced(layer: nn.Linear, *shape: int) -> nn.Linear:
    layer.weight = nn.Parameter(torch.randn(*shape))
    return layer


class Kipf(nn.Linear):
    """Keeps its weight as (in, out), and applies it so."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Named(nn.Linear):
    """A layer of the user's own name that is applied like any other."""


def test_sick() -> None:
    named = Named(4, 3)
    named.weight = nn.Parameter(torch.randn(4, 3))
    net = nn.ModuleDict({"a": replaced(nn.Linear(4, 3), 4, 3), "b": nn.Sequential(named)})
    assert [finding.where for finding in transposed_linears(net)] == ["a.weight", "b.0.weight"]
    assert [finding.where for finding in transposed_linears(named)] == ["weight"]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 3),
        replaced(nn.Linear(4, 3), 3, 4),
        replaced(nn.Linear(4, 4), 4, 4),
        replaced(nn.Linear(4, 3), 5, 4),  # pruned: no transpose
        Kipf(),
        nn.LazyLinear(3),
        nn.Bilinear(4, 4, 3),
        nn.Conv1d(4, 3, 1),
    ],
    ids=["linear", "replaced", "square", "pruned", "own forward", "lazy", "bilinear", "convolution"],
)
def test_healthy(layer: nn.Module) -> None:
    assert transposed_linears(layer) == []


def test_a_parametrization_is_not_run() -> None:
    layer = spectral_norm(nn.Linear(4, 3))
    before = {name: value.clone() for name, value in layer.named_buffers()}
    assert transposed_linears(layer) == []
    assert all(torch.equal(value, before[name]) for name, value in layer.named_buffers())
