"""LT204 by tables, on numbers as they come out of memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightning_tuning.rules._weight_facts import weight_facts
from lightning_tuning.rules.uninitialised_parameter import Contents, contents, uninitialised_parameter


def found(parameter: Tensor, *, is_trained: bool = False) -> str | None:
    for name, values in contents({"w": parameter}, weight_facts({"w": parameter})).items():
        finding = uninitialised_parameter(name, values, is_trained=is_trained)
        if finding is not None:
            return finding.message
    return None


def written(values: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(torch.empty_like(values))
    with torch.no_grad():
        parameter.copy_(values)
    return parameter


ADDRESSES = torch.tensor([0x7F3C00001000 + 64 * i for i in range(8)]).view(torch.float32)
NAN = torch.tensor([1.0, math.nan, 0.1, math.inf])
GARBAGE = torch.tensor([1e-30, 3e29, 0.0, 1.0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (ADDRESSES, "16 of 16 elements are subnormal"),
        (NAN, "2 of 4 elements are NaN or infinite"),
        (GARBAGE, "from 1e-30 to 3e+29 > 10000"),
    ],
    ids=["addresses", "nan", "garbage"],
)
def test_sick(values: Tensor, message: str) -> None:
    assert message in (found(nn.Parameter(values.clone())) or "")


@pytest.mark.parametrize("values", [NAN, GARBAGE], ids=["nan", "garbage"])
def test_a_bad_formula_writes_them_too(values: Tensor) -> None:
    assert found(written(values)) is not None
    assert found(written(values), is_trained=True) is None  # a loaded weight is not ours


@pytest.mark.parametrize(
    "parameter",
    [
        nn.Linear(64, 64).weight,
        nn.Parameter(torch.zeros(64)),
        nn.Parameter(torch.ones(64)),
        nn.Parameter(torch.tensor(2e5)),  # a stiffness
        nn.Parameter(torch.full((4,), 2e5)),
        nn.Parameter(torch.linspace(1e4, 9e4, 8)),
        nn.Parameter((0.02 * torch.randn(4096, generator=torch.Generator().manual_seed(0))).half()),
        nn.Parameter(torch.zeros(0)),
        nn.Parameter(ADDRESSES.clone(), requires_grad=False),
        nn.Parameter(torch.tensor([1e-40])),  # one alone may be meant
        nn.UninitializedParameter(),
    ],
    ids=["linear", "zeros", "ones", "one number", "constant", "large", "half", "empty", "frozen", "tiny", "lazy"],
)
def test_healthy(parameter: Tensor) -> None:
    assert found(parameter) is None


def test_weight_decay_leaves_subnormal_numbers() -> None:
    assert found(written(ADDRESSES)) is None
    assert found(nn.Parameter(ADDRESSES.clone()), is_trained=True) is None


def test_what_was_written_is_looked_at_only_if_it_is_large() -> None:
    parameters = {"plain": nn.Linear(4, 4).weight, "large": written(torch.full((4, 4), 1e6))}
    assert list(contents(parameters, weight_facts(parameters))) == ["large"]


def test_half_precision_is_judged_by_the_limits_of_float32() -> None:
    values = nn.Parameter(torch.tensor([6e-8, 1e-7, 0.5], dtype=torch.float16))
    assert contents({"w": values}, weight_facts({"w": values})) == {}
    values = nn.Parameter(torch.tensor([6e-8, 1e-7, torch.inf], dtype=torch.float16))
    assert contents({"w": values}, weight_facts({"w": values}))["w"] == Contents(
        3, 1, pytest.approx(1e-7, rel=0.2), pytest.approx(6e-8, rel=0.1), 0
    )
