"""LT112's pure parts: is a target the next input, and does a gradient come from the future?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_tuning.rules.future_leak import future_leak, next_token_shift

TOKENS = torch.randint(9, (4, 11), generator=torch.Generator().manual_seed(0))
X, Y = TOKENS[:, :-1], TOKENS[:, 1:]
NAN = float("nan")


@pytest.mark.parametrize(
    ("inputs", "target", "batch_first"),
    [
        (X, Y, True),
        (X, Y.flatten(), True),
        (TOKENS, Y.flatten(), True),
        (TOKENS, Y, True),
        (X.T, Y.T, False),
        (X.T, Y.T.flatten(), False),
        (X, Y.where(torch.rand(Y.shape, generator=torch.Generator().manual_seed(1)) > 0.3, -100), True),
        (torch.randn(2, 8, 3)[:, :-1], None, True),
    ],
)
def test_next_tokens(inputs: Tensor, target: Tensor | None, batch_first: bool) -> None:
    if target is None:
        series = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(2))
        inputs, target = series[:, :-1], series[:, 1:]
    shift = next_token_shift(inputs, target)
    assert shift is not None
    assert shift.batch_first is batch_first
    assert shift.matches >= 8


@pytest.mark.parametrize(
    ("inputs", "target"),
    [
        (X, X),
        (X, Y.flip(1)),
        (Y, X),
        (torch.zeros_like(X), torch.zeros_like(Y)),
        (X[0], Y[0]),
        (X, Y[:, 0]),
        (X, X.masked_fill(torch.rand(X.shape) > 0.2, -100)),
        (X[:1, :3], Y[:1, :3]),
        (torch.empty(0, 4), torch.empty(0, 4)),
        (torch.tensor(1), torch.tensor(1)),
    ],
    ids=["copy", "backwards", "previous", "constant", "1-d", "one label", "masked", "too few", "empty", "scalar"],
)
def test_other_tasks(inputs: Tensor, target: Tensor) -> None:
    assert next_token_shift(inputs, target) is None


@pytest.mark.parametrize(
    ("past", "future", "leaks"),
    [
        (1.0, 0.0, False),
        (1.0, 1e-6, False),
        (1.0, 1e-2, True),
        (0.0, 1.0, True),
        (0.0, 0.0, False),
        (NAN, 1.0, False),
        (1.0, NAN, False),
        (1.0, float("inf"), False),
    ],
)
def test_the_future(past: float, future: float, leaks: bool) -> None:
    assert (future_leak(past, future, step=0, steps=4) is not None) is leaks
