"""The facts of parameters against torch's own numbers, and what must not be looked at."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightning_tuning.rules._weight_facts import is_whole, weight_facts

VALUES = {
    "normal": torch.randn(64, 32, generator=torch.Generator().manual_seed(0)),
    "half": torch.full((8, 8), 300.0, dtype=torch.float16),  # 300^2 is no float16
    "double": torch.linspace(-1, 3, 12, dtype=torch.float64),
    "scalar": torch.tensor(-2.0),
}


@pytest.mark.parametrize("name", VALUES)
def test_numbers(name: str) -> None:
    values = VALUES[name]
    fact = weight_facts({name: values})[name]
    exact = values.double()
    assert fact.mean == pytest.approx(float(exact.mean()), rel=1e-4, abs=1e-5)
    assert fact.norm == pytest.approx(float(exact.norm()), rel=1e-5)
    assert fact.std == pytest.approx(float(exact.std(correction=0)), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "is_zero", "is_constant"),
    [
        (torch.zeros(5), True, True),
        (torch.full((1000,), 0.1), False, True),
        (torch.tensor([3.0]), False, False),
        (torch.tensor([1.0, 1.1]), False, False),
        (torch.tensor([math.nan, 1.0]), False, False),
        (torch.tensor([math.inf, 1.0]), False, False),
    ],
)
def test_constants(values: Tensor, is_zero: bool, is_constant: bool) -> None:
    fact = weight_facts({"w": values})["w"]
    assert (fact.is_zero, fact.is_constant) == (is_zero, is_constant)


@pytest.mark.parametrize(
    "values",
    [
        torch.empty(0),
        torch.arange(3),
        torch.empty(3, device="meta"),
        nn.UninitializedParameter(),
        torch.sparse_coo_tensor([[0]], [1.0], (3,), check_invariants=True),
    ],
    ids=["empty", "integers", "meta", "lazy", "sparse"],
)
def test_what_is_not_there_is_left_out(values: Tensor) -> None:
    assert not is_whole(values)
    assert weight_facts({"w": values}) == {}


def test_versions_and_flags() -> None:
    linear = nn.Linear(2, 2)
    linear.weight.requires_grad_(False)
    facts = weight_facts(dict(linear.named_parameters()))
    assert facts["weight"].version == 1  # filled by torch
    assert [fact.is_trainable for fact in facts.values()] == [False, True]
