from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_tuning.functional import (
    adaptive_gradient_clip_,
    clip_coefficient,
    clip_values_,
    percentile_threshold,
    push_norm_,
    scale_gradients_,
    unit_dims,
    updated_norm_statistics,
    zscore_threshold,
)

NORMS = st.one_of(st.floats(2**-10, 2**10, width=32), st.sampled_from([0.0, math.inf, math.nan]))


def is_known(norm: float) -> bool:
    return math.isfinite(norm) and norm > 0


@settings(max_examples=50, deadline=None)
@given(st.lists(NORMS, max_size=30), st.integers(1, 8), st.sampled_from([0, 10, 50, 90, 100]))
def test_percentile_of_the_last_known_norms_is_numpys(norms: list[float], window: int, percentile: int) -> None:
    history, count = torch.full((window,), math.nan), torch.tensor(0)
    for norm in norms:
        push_norm_(history, count, torch.tensor(norm))
    known = [norm for norm in norms if is_known(norm)]
    assert int(count) == len(known)
    threshold = float(percentile_threshold(history, percentile))
    if known:
        assert threshold == pytest.approx(np.percentile(known[-window:], percentile), rel=1e-5)
    else:
        assert math.isnan(threshold)


@settings(max_examples=50, deadline=None)
@given(st.lists(NORMS, max_size=40), st.integers(1, 30))
def test_moving_statistics_are_those_of_plain_python(norms: list[float], warmup: int) -> None:
    mean, variance, count = torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0)
    for norm in norms:
        mean, variance, count = updated_norm_statistics(mean, variance, count, torch.tensor(norm), warmup=warmup)
    known = [norm for norm in norms if is_known(norm)]
    assert int(count) == len(known)
    if not known:
        assert (mean, variance) == (0, 0)
        return
    weights = np.ones(min(warmup, len(known))) / min(warmup, len(known))
    for _ in known[warmup:]:
        weights = np.append(0.97 * weights, 0.03)
    expected = np.average(known, weights=weights)
    spread = np.average((np.array(known) - expected) ** 2, weights=weights)
    assert float(mean) == pytest.approx(expected, rel=1e-4)
    assert float(variance) == pytest.approx(spread, rel=1e-3, abs=1e-4 * expected**2)
    assert float(zscore_threshold(mean, variance, 2.5)) == pytest.approx(
        float(mean) + 2.5 * math.sqrt(float(variance)), rel=1e-5
    )


@pytest.mark.parametrize(
    ("norm", "threshold", "expected"),
    [
        (4.0, 1.0, 0.25),
        (1.0, 1.0, 1.0),
        (0.5, 1.0, 1.0),
        (0.0, 1.0, 1.0),
        (0.0, 0.0, 1.0),
        (math.inf, 1.0, 1.0),
        (math.nan, 1.0, 1.0),
        (4.0, math.inf, 1.0),
        (4.0, math.nan, 1.0),
        (math.inf, math.inf, 1.0),
    ],
)
def test_coefficient(norm: float, threshold: float, expected: float) -> None:
    assert float(clip_coefficient(torch.tensor(norm), torch.tensor(threshold))) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64])
def test_scaling_keeps_dtype_and_broken_numbers(dtype: torch.dtype) -> None:
    gradient, empty = torch.tensor([2.0, math.inf, math.nan], dtype=dtype), torch.zeros(0, dtype=dtype)
    scale_gradients_([gradient, empty], torch.tensor(1.0))
    assert gradient.dtype == dtype
    assert gradient[0] == 2
    assert not gradient[1:].isfinite().any()
    finite = torch.tensor([2.0, -4.0], dtype=dtype)
    scale_gradients_([finite], torch.tensor(0.5))
    assert finite.tolist() == [1, -2]


def test_sparse_gradients_are_scaled_by_their_values() -> None:
    index = torch.tensor([[0, 0, 2]])
    gradient = torch.sparse_coo_tensor(index, torch.tensor([1.0, 2.0, 4.0]), (3,), check_invariants=True)
    scale_gradients_([gradient], torch.tensor(0.5))
    assert gradient.to_dense().tolist() == [1.5, 0.0, 2.0]


@pytest.mark.parametrize("bound", [1.0, torch.tensor(1.0)])
def test_values_are_clipped_as_torch_does(bound: float | Tensor) -> None:
    torch.manual_seed(0)
    mine = [torch.randn(4, 3) * 2, torch.randn(5), torch.tensor(math.nan), torch.zeros(0)]
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in mine]
    for parameter, gradient in zip(parameters, mine, strict=True):
        parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_value_(parameters, 1.0)
    clip_values_(mine, bound)
    for parameter, gradient in zip(parameters, mine, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, equal_nan=True)


def test_values_of_complex_numbers_are_clipped_by_their_parts() -> None:
    gradient = torch.tensor([3 - 0.5j, 1j])
    clip_values_([gradient], 1.0)
    assert gradient.tolist() == [1 - 0.5j, 1j]


def naive_agc(weight: Tensor, gradient: Tensor, unit: int, clipping: float, eps: float) -> Tensor:
    """Unit by unit, in plain Python; ``unit`` is the dimension of the units."""
    result = gradient.clone()
    for i in range(weight.shape[unit]):
        w, g = weight.select(unit, i), gradient.select(unit, i)
        bound = clipping * max(float(w.norm()), eps)
        if float(g.norm()) > bound:
            result.select(unit, i).copy_(g * (bound / float(g.norm())))
    return result


@pytest.mark.parametrize(
    ("layer", "unit"),
    [
        (nn.Linear(5, 4), 0),
        (nn.Conv2d(4, 6, 3, groups=2), 0),
        (nn.ConvTranspose2d(4, 6, 3), 1),
        (nn.Embedding(7, 3), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_units_are_clipped_as_in_a_plain_loop(layer: nn.Module, unit: int) -> None:
    torch.manual_seed(0)
    weight = layer.weight
    with torch.no_grad():
        weight.select(unit, 0).zero_()
    gradient = torch.randn_like(weight) * torch.logspace(-4, 1, weight.shape[unit]).view(
        [-1 if d == unit else 1 for d in range(weight.dim())]
    )
    weight.grad = gradient.clone()
    clipped, units = adaptive_gradient_clip_([weight], 0.05, dims=unit_dims(layer))
    expected = naive_agc(weight.detach(), gradient, unit, 0.05, 1e-3)
    torch.testing.assert_close(weight.grad, expected)
    changed = [
        i for i in range(weight.shape[unit]) if not torch.equal(expected.select(unit, i), gradient.select(unit, i))
    ]
    assert (int(clipped), int(units)) == (len(changed), weight.shape[unit])
    assert 0 < len(changed) < weight.shape[unit]


def test_a_bias_is_one_unit_and_a_factor_is_taken_into_account() -> None:
    bias, scalar = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor(2.0))
    bias.grad, scalar.grad = torch.tensor([0.0, 80.0]), torch.tensor(0.1)
    clipped, units = adaptive_gradient_clip_([bias, scalar], 0.1, scale=torch.tensor(8.0))
    assert (int(clipped), int(units)) == (1, 2)
    torch.testing.assert_close(bias.grad, torch.tensor([0.0, 4.0]))
    assert float(scalar.grad) == pytest.approx(0.1)


def test_what_has_no_gradient_or_a_broken_one_is_left_alone() -> None:
    nothing, broken, empty = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(0, 2))
    broken.grad, empty.grad = torch.tensor([[math.nan, 1.0], [math.inf, 1.0]]), torch.zeros(0, 2)
    before = broken.grad.clone()
    clipped, units = adaptive_gradient_clip_([nothing, broken, empty], 1e-6)
    assert (int(clipped), int(units)) == (0, 2)
    torch.testing.assert_close(broken.grad, before, equal_nan=True)
    assert [int(number) for number in adaptive_gradient_clip_([], 0.1)] == [0, 0]


def test_half_precision_does_not_overflow() -> None:
    weight = nn.Parameter(torch.ones(1, 4, dtype=torch.float16))
    weight.grad = torch.full((1, 4), 60000.0, dtype=torch.float16)
    adaptive_gradient_clip_([weight], 0.5)
    torch.testing.assert_close(weight.grad, torch.full((1, 4), 0.5, dtype=torch.float16))
