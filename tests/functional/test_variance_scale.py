"""The factors of LSUV and Fixup against naive oracles."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_tuning.functional.variance_scale import fixup_scale, unit_variance_scale


def naive(layer: nn.Linear, x: Tensor, tol: float, max_iter: int) -> tuple[float, float]:
    """The algorithm as it is printed: a pass, a division, a pass, a division."""
    factor = 1.0
    for _ in range(max_iter):
        variance = float(layer(x).var(correction=0))
        if abs(variance - 1) < tol:
            break
        layer.weight.div_(math.sqrt(variance))
        factor /= math.sqrt(variance)
    return factor, float(layer(x).var(correction=0))


@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(0, 3), st.sampled_from([1e-6, 0.1]))
def test_equals_the_algorithm_pass_by_pass(seed: int, size: float, bias: float, tol: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(5, 7).double()
    with torch.no_grad():
        layer.weight.copy_(size * torch.randn(7, 5, generator=generator))
        layer.bias.copy_(bias * torch.randn(7, generator=generator))
        x = torch.randn(11, 5, generator=generator, dtype=torch.float64)
        found = unit_variance_scale(layer(x), layer.bias, tol=tol)
        factor, after = naive(layer, x, tol, 10)
    assert found is not None
    assert found.scale == pytest.approx(factor, rel=1e-6)
    assert found.after == pytest.approx(after, rel=1e-6)


def test_without_a_bias_one_division_is_exact() -> None:
    found = unit_variance_scale(torch.randn(50, 3, dtype=torch.float64) * 7, tol=1e-9, max_iter=1)
    assert found is not None
    assert found.after == pytest.approx(1.0, abs=1e-9)


def test_within_the_tolerance_nothing_is_done() -> None:
    found = unit_variance_scale(torch.tensor([-1.02, 1.02]))
    assert found == (1.0, pytest.approx(1.0404), pytest.approx(1.0404))


@pytest.mark.parametrize(
    "output",
    [
        torch.zeros(4, 3),
        torch.full((4, 3), 0.1),
        torch.empty(0, 3),
        torch.tensor([1.0, math.nan]),
        torch.tensor([1.0, math.inf]),
        torch.tensor([3.0]),
    ],
)
def test_no_factor_helps_what_does_not_vary(output: Tensor) -> None:
    assert unit_variance_scale(output) is None


def test_an_output_that_is_all_bias_has_none() -> None:
    bias = torch.tensor([1.0, 2.0])
    assert unit_variance_scale(bias.expand(5, 2), bias) is None


def test_a_bias_that_varies_too_much_ends_the_loop() -> None:
    bias = torch.tensor([-5.0, 5.0])
    found = unit_variance_scale(torch.tensor([[0.1, -0.1], [-0.1, 0.1]]) + bias, bias)
    assert found is not None
    assert found.after == pytest.approx(25.0, rel=0.01)


@pytest.mark.parametrize("arguments", [{"tol": 0.0}, {"tol": math.nan}, {"max_iter": 0}])
def test_bad_arguments_are_named(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        unit_variance_scale(torch.ones(3), **arguments)


@given(st.integers(1, 300), st.integers(2, 8))
def test_fixup_gives_the_branch_the_size_of_one_over_root_depth(branches: int, layers: int) -> None:
    assert fixup_scale(branches, layers) ** (layers - 1) == pytest.approx(branches**-0.5)
    assert fixup_scale(branches, 1) == 1.0


@pytest.mark.parametrize(("branches", "layers"), [(0, 2), (3, 0)])
def test_fixup_needs_something(branches: int, layers: int) -> None:
    with pytest.raises(ValueError, match=f"got {branches} and {layers}"):
        fixup_scale(branches, layers)
