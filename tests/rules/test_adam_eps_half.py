"""LT409: eps and the type in which the optimizer keeps its moments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tuning.rules._optimizers import parameter_groups
from lightning_tuning.rules.adam_eps_half import adam_eps_half


def stepped(make: Any, dtype: torch.dtype, **settings: Any) -> torch.optim.Optimizer:
    weight = nn.Parameter(torch.full((3,), 0.5, dtype=dtype))
    weight.grad = torch.full((3,), 0.5, dtype=dtype)
    optimizer: torch.optim.Optimizer = make([weight], **settings)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("make", "dtype", "settings", "is_lost"),
    [
        (torch.optim.Adam, torch.float16, {}, True),
        (torch.optim.AdamW, torch.float16, {"eps": 5.9e-8}, True),
        (torch.optim.AdamW, torch.float16, {"eps": 6e-8}, False),
        (torch.optim.AdamW, torch.float16, {"eps": 1e-4}, False),
        (torch.optim.AdamW, torch.float16, {"eps": 0.0}, True),
        (torch.optim.RMSprop, torch.float16, {}, True),
        (torch.optim.Adam, torch.bfloat16, {}, False),
        (torch.optim.Adam, torch.float32, {}, False),
        (torch.optim.SGD, torch.float16, {"lr": 0.1, "momentum": 0.9}, False),
    ],
)
def test_eps(make: Any, dtype: torch.dtype, settings: dict[str, float], is_lost: bool) -> None:
    optimizer = stepped(make, dtype, **settings)
    found = adam_eps_half(parameter_groups([optimizer], {}), optimizer.state)
    assert [finding.code for finding in found] == (["LT409"] if is_lost else [])


def test_the_threshold_is_where_half_precision_ends() -> None:
    assert torch.tensor(5.9e-8).half().item() == pytest.approx(2**-24)  # rounds up to the smallest number there is
    assert torch.tensor(2.9e-8).half().item() == 0.0
    assert torch.tensor(1e-8).half().item() == 0.0


def test_moments_in_float32() -> None:
    optimizer = stepped(torch.optim.Adam, torch.float16)
    (weight,) = optimizer.state
    state = {weight: {name: value.float() for name, value in optimizer.state[weight].items()}}
    assert adam_eps_half(parameter_groups([optimizer], {}), state) == []


@pytest.mark.parametrize("eps", [None, (None, 1e-3), math.nan, "tiny"])
def test_an_eps_that_is_no_number(eps: Any) -> None:
    optimizer = stepped(torch.optim.Adam, torch.float16)
    optimizer.param_groups[0]["eps"] = eps
    assert adam_eps_half(parameter_groups([optimizer], {}), optimizer.state) == []


def test_before_any_step() -> None:
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(2, dtype=torch.float16))])
    assert adam_eps_half(parameter_groups([optimizer], {}), optimizer.state) == []
