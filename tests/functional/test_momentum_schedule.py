"""The momentum of each step against the formulas, and its way into every kind of optimizer."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_tuning.functional.momentum_schedule import (
    check_momentum_arguments,
    has_momentum,
    momentum_at,
    set_momentum_,
)


def weight() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(2))]


@given(st.integers(0, 10**6), st.floats(0.5, 0.999))
def test_the_stairs_of_sutskever_et_al(step: int, end: float) -> None:
    stair = 1
    while 250 * stair <= step:
        stair += 1
        if stair > 2000:  # far above the end
            break
    assert momentum_at(step, end=end, shape="sutskever") == pytest.approx(min(1 - 1 / (2 * stair), end), abs=3e-4)


def test_each_stair_to_the_last_digit() -> None:
    found = [
        momentum_at(step, end=0.99, shape="sutskever") for step in (0, 249, 250, 499, 500, 999, 1000, 12250, 12500)
    ]
    assert found == pytest.approx([1 / 2, 1 / 2, 3 / 4, 3 / 4, 5 / 6, 7 / 8, 9 / 10, 0.99, 0.99])


@given(st.integers(1, 500), st.integers(0, 600), st.floats(0, 0.99), st.floats(0, 0.99))
def test_lines_and_waves(over: int, step: int, start: float, end: float) -> None:
    share = min(step, over) / over
    line = start * (1 - share) + end * share
    wave = end + (start - end) * (1 + math.cos(math.pi * share)) / 2
    assert momentum_at(step, start=start, end=end, over=over) == pytest.approx(line, abs=1e-12)
    assert momentum_at(step, start=start, end=end, over=over, shape="cosine") == pytest.approx(wave, abs=1e-12)
    if step >= over:
        assert momentum_at(step, start=start, end=end, over=over) == end


OPTIMIZERS: dict[str, tuple[Any, str]] = {
    "SGD": (lambda p: torch.optim.SGD(p, 0.1), "momentum"),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, 0.1), "momentum"),
    "Adam": (lambda p: torch.optim.Adam(p, 0.1), "betas"),
    "AdamW": (lambda p: torch.optim.AdamW(p, 0.1, amsgrad=True), "betas"),
    "NAdam": (lambda p: torch.optim.NAdam(p, 0.1), "betas"),
    "RAdam": (lambda p: torch.optim.RAdam(p, 0.1), "betas"),
    "Adamax": (lambda p: torch.optim.Adamax(p, 0.1), "betas"),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_it_is_put_into_every_group(kind: str) -> None:
    make, key = OPTIMIZERS[kind]
    optimizer = make([{"params": weight()}, {"params": weight()}])
    assert has_momentum(optimizer)
    before = [group.get("betas", (0, 0))[1] for group in optimizer.param_groups]
    set_momentum_(optimizer, 0.625)
    for group, second in zip(optimizer.param_groups, before, strict=True):
        assert group[key] == (0.625 if key == "momentum" else (0.625, second))
        group["params"][0].grad = torch.ones(2)
    optimizer.step()


@pytest.mark.parametrize("kind", ["Adagrad", "Adadelta", "Rprop", "ASGD", "LBFGS"])
def test_who_has_none(kind: str) -> None:
    assert not has_momentum(getattr(torch.optim, kind)(weight(), lr=0.1))


def test_betas_in_tensors_are_written_in_place() -> None:
    betas = (torch.tensor(0.9), torch.tensor(0.999))
    optimizer = torch.optim.Adam(weight(), lr=torch.tensor(0.1), betas=betas, capturable=True, foreach=False)
    set_momentum_(optimizer, 0.5)
    assert optimizer.param_groups[0]["betas"][0] is betas[0]
    assert float(betas[0]) == 0.5
    assert float(betas[1]) == pytest.approx(0.999)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"start": -0.1}, "`start` must be at least 0 and less than 1, got -0.1."),
    ({"start": math.nan}, "`start` must be at least 0 and less than 1, got nan."),
    ({"end": 1}, "`end` must be at least 0 and less than 1, got 1."),
    ({"end": math.inf}, "`end` must be at least 0 and less than 1, got inf."),
    ({"end": True}, "`end` must be at least 0 and less than 1, got True."),
    ({"end": "0.9"}, "`end` must be at least 0 and less than 1, got '0.9'."),
    ({"over": 0}, "`over` must be None, an integer of at least 1, or a fraction above 0 and at most 1, got 0."),
    ({"over": 0.0}, "`over` must be None, an integer of at least 1, or a fraction above 0 and at most 1, got 0.0."),
    ({"over": 1.5}, "`over` must be None, an integer of at least 1, or a fraction above 0 and at most 1, got 1.5."),
    (
        {"over": math.nan},
        "`over` must be None, an integer of at least 1, or a fraction above 0 and at most 1, got nan.",
    ),
    ({"over": True}, "`over` must be None, an integer of at least 1, or a fraction above 0 and at most 1, got True."),
    ({"shape": "step"}, "`shape` must be 'linear', 'cosine' or 'sutskever', got 'step'."),
    (
        {"shape": "sutskever", "over": 9},
        "`over` must be None with shape='sutskever', whose stairs have 250 steps, got 9.",
    ),
    ({"shape": "sutskever", "start": 0.4}, "`start` must be 0.5 with shape='sutskever', which begins there, got 0.4."),
    ({"shape": "sutskever", "end": 0.3}, "`end` must be at least 0.5 with shape='sutskever', which begins there, got"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        check_momentum_arguments(**{"start": 0.5, "end": 0.9, "over": None, "shape": "linear", **arguments})
