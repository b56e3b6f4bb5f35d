from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_tuning.functional import (
    add_elastic_net_gradients_,
    decay_,
    elastic_net,
    renorm_units_,
    soft_threshold_,
    zero_counts,
)

NUMBERS = st.lists(st.floats(-100, 100, width=32), max_size=12)


@settings(max_examples=50, deadline=None)
@given(NUMBERS, st.floats(0, 2), st.floats(0, 2))
def test_value_is_the_sum_and_gradient_is_autograds(numbers: list[float], l1: float, l2: float) -> None:
    weight = nn.Parameter(torch.tensor(numbers))
    value = elastic_net([weight], l1, l2)
    assert float(value) == pytest.approx(sum(l1 * abs(w) + l2 / 2 * w * w for w in numbers), rel=1e-4, abs=1e-4)
    (l1 * weight.abs().sum() + l2 / 2 * weight.square().sum()).backward()
    expected, weight.grad = weight.grad, torch.zeros_like(weight)
    add_elastic_net_gradients_([weight], l1, l2)
    torch.testing.assert_close(weight.grad, expected)


def test_no_weights_no_penalty() -> None:
    assert float(elastic_net([], 1.0)) == 0.0
    assert float(elastic_net([torch.zeros(0)], 1.0, 1.0)) == 0.0


def test_half_precision_does_not_overflow() -> None:
    assert float(elastic_net([torch.full((1000,), 1000.0, dtype=torch.float16)], 1.0, 2.0)) == 1e6 + 1e9


def test_gradients_are_scaled_as_the_others_and_only_where_there_are_some() -> None:
    with_one, without = nn.Parameter(torch.tensor([2.0, math.nan])), nn.Parameter(torch.ones(1))
    with_one.grad = torch.tensor([1.0, 1.0])
    add_elastic_net_gradients_([with_one, without], 0.5, scale=torch.tensor(8.0))
    assert with_one.grad[0] == 1.0 + 8 * 0.5
    assert with_one.grad[1] == 1.0  # a broken weight has no sign, and stays broken by itself
    assert without.grad is None


def test_a_sparse_gradient_is_refused() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (3,), check_invariants=True)
    with pytest.raises(ValueError, match=r"`parameters` must have dense gradients, got a sparse one of shape \(3,\)."):
        add_elastic_net_gradients_([weight], 1.0)


@settings(max_examples=50, deadline=None)
@given(NUMBERS, st.floats(0, 50), st.floats(0.1, 1))
def test_soft_threshold_is_that_of_plain_python(numbers: list[float], threshold: float, shrink: float) -> None:
    weight = torch.tensor(numbers)
    expected = [math.copysign(max(abs(w) - threshold, 0.0) * shrink, w) for w in numbers]
    soft_threshold_(weight, threshold, shrink)
    assert weight.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    soft_threshold_(weight, torch.tensor(0.0))
    assert weight.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_soft_threshold_is_torchs_softshrink(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape).to(dtype)
    expected = nn.functional.softshrink(weight, 0.3)
    soft_threshold_(weight, 0.3)
    torch.testing.assert_close(weight, expected)


def test_broken_weights_stay_broken() -> None:
    weight = torch.tensor([math.nan, math.inf, -math.inf])
    soft_threshold_(weight, 1.0)
    assert weight[0].isnan()
    assert weight[1:].tolist() == [math.inf, -math.inf]


def test_a_complex_weight_keeps_its_direction() -> None:
    weight = torch.tensor([3 + 4j, 0.1j])
    soft_threshold_(weight, 1.0)
    torch.testing.assert_close(weight, torch.tensor([2.4 + 3.2j, 0j]))


@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1)])
def test_decay(rate: float | Tensor) -> None:
    weight = torch.tensor([1.0, -2.0, 0.0])
    decay_(weight, rate)
    torch.testing.assert_close(weight, torch.tensor([0.9, -1.8, 0.0]))


@pytest.mark.parametrize("dim", [0, 1])
def test_units_are_bounded_and_smaller_ones_untouched(dim: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 5, 3)
    weight.select(dim, 0).mul_(0.01)
    weight.select(dim, 1).zero_()
    before = weight.clone()
    renorm_units_(weight, 1.5, dim)
    for i in range(weight.shape[dim]):
        old, new = before.select(dim, i), weight.select(dim, i)
        assert float(new.norm()) == pytest.approx(min(1.5, float(old.norm())), rel=1e-4)
        torch.testing.assert_close(new, old * (min(1.5, float(old.norm())) / max(float(old.norm()), 1e-9)))
    assert torch.equal(weight.select(dim, 0), before.select(dim, 0))


def test_zeros_are_counted() -> None:
    counts = zero_counts([torch.tensor([0.0, 0.5e-3, 1.0, -1.0]), torch.zeros(0), torch.zeros(3)])
    assert counts.tolist() == [[1, 2, 4], [0, 0, 0], [3, 3, 3]]
    assert zero_counts([]).shape == (0, 3)
