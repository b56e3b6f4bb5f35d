"""Norms against a naive oracle: Python's own ``math.hypot`` over the elements."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_tuning.functional import global_norm, tensor_norms

finite = st.floats(-1e6, 1e6, width=32)
shapes = st.lists(st.integers(0, 4), max_size=3)


def naive(tensor: Tensor) -> float:
    return math.hypot(*tensor.double().reshape(-1).tolist())


SQUARE_UNDERFLOW = 1e-18  # smaller elements have squares that float32 rounds away


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(shapes)
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
    size = math.prod(shape)
    elements = draw(st.lists(finite, min_size=size, max_size=size))
    return torch.tensor(elements).clamp(-6e4, 6e4).reshape(shape).to(dtype)


@given(st.lists(tensors(), max_size=6))
def test_norms_are_those_of_the_elements(parts: list[Tensor]) -> None:
    norms = tensor_norms(parts)
    assert norms.dtype == torch.float32
    assert norms.shape == (len(parts),)
    assert norms.tolist() == pytest.approx([naive(part) for part in parts], rel=1e-5, abs=SQUARE_UNDERFLOW)
    total = math.hypot(*(naive(part) for part in parts))
    assert float(global_norm(norms)) == pytest.approx(total, rel=1e-5, abs=SQUARE_UNDERFLOW)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ([], 0.0),
        ([0.0, 0.0], 0.0),
        ([-0.0], 0.0),
        ([1.0, math.inf], math.inf),
        ([1.0, -math.inf], math.inf),
        ([1.0, math.nan], math.nan),
        ([math.inf, math.nan], math.nan),
        ([3.0, 4.0], 5.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_table(elements: list[float], expected: float, dtype: torch.dtype) -> None:
    norms = tensor_norms([torch.tensor(elements, dtype=dtype), torch.ones(4, dtype=dtype)])
    torch.testing.assert_close(norms, torch.tensor([expected, 2.0]), equal_nan=True)
    torch.testing.assert_close(global_norm(norms), torch.tensor(math.hypot(expected, 2.0)), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    gradient = torch.full((1000, 100), 60000.0, dtype=dtype)
    assert float(tensor_norms([gradient])) == pytest.approx(naive(gradient), rel=1e-4)


def test_float64_beyond_float32_overflows_only_at_the_end() -> None:
    assert tensor_norms([torch.full((4,), 1e30, dtype=torch.float64)]).tolist() == pytest.approx([2e30])
    assert tensor_norms([torch.tensor([1e300], dtype=torch.float64), torch.ones(1)]).tolist() == [math.inf, 1.0]


def test_mixed_types_in_one_call() -> None:
    parts = [torch.full((9,), 2.0, dtype=dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32)]
    assert tensor_norms(parts).tolist() == [6.0, 6.0, 6.0]


def test_sparse_values_at_one_index_are_added_before_they_are_squared() -> None:
    twice = torch.sparse_coo_tensor([[0, 0, 2]], [1.0, 2.0, 4.0], (5,), check_invariants=True)
    assert tensor_norms([twice, torch.zeros(0)]).tolist() == [5.0, 0.0]
    empty = torch.sparse_coo_tensor(torch.empty(1, 0), torch.empty(0), (5,), check_invariants=True)
    assert tensor_norms([empty]).tolist() == [0.0]


def test_embedding_gradient() -> None:
    table = torch.nn.Embedding(10, 3, sparse=True)
    table(torch.tensor([1, 1, 4])).sum().backward()
    gradient = table.weight.grad
    assert tensor_norms([gradient]).tolist() == pytest.approx([naive(gradient.to_dense())])


def test_nothing_gives_nothing() -> None:
    assert tensor_norms([]).shape == (0,)
    assert float(global_norm(tensor_norms([]))) == 0.0


def test_inputs_and_their_graph_stay_as_they_were() -> None:
    parameter = torch.tensor([3.0, 4.0], requires_grad=True)
    norms = tensor_norms([parameter * 1, parameter])
    assert not norms.requires_grad
    assert parameter.tolist() == [3.0, 4.0]
    assert parameter._version == 0
