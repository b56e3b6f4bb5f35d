from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_tuning.rules.vanishing_gradient import VanishingJudge, vanishing_cause
from lightning_tuning.trace import Graph, Recorder

NAMES = ("first.weight", "second.weight", "last.weight")


def judge(*looks: tuple[float, float, float], **settings: object) -> list[object]:
    judge = VanishingJudge(dict.fromkeys(NAMES, 1.0), **settings)  # type: ignore[arg-type]
    return [judge.judge(dict(zip(NAMES, look, strict=True)), step=step) for step, look in enumerate(looks)]


def codes(*looks: tuple[float, float, float], **settings: object) -> list[bool]:
    return [finding is not None for finding in judge(*looks, **settings)]


@pytest.mark.parametrize(
    ("look", "fires"),
    [
        ((1e-5, 1e-3, 1.0), True),
        ((0.0, 1e-3, 1.0), True),
        ((1e-5, 1e-5, 1e-5), False),  # all fall together
        ((1e-5, 1e-4, 1e-3), False),  # a hundredth of the last one
        ((2e-4, 1.0, 1.0), True),  # by LT202's spread, not by the bounds
        ((2e-2, 1.0, 10.0), True),
        ((2e-2, 1.0, 1.0), False),
        ((1.0, 1.0, 0.0), False),
        ((0.0, 0.0, 0.0), False),
        ((math.nan, 1.0, 1.0), False),
        ((1e-9, 1.0, math.inf), False),
    ],
)
def test_readings(look: tuple[float, float, float], fires: bool) -> None:
    assert codes(look, look, look) == [False, False, fires]


def test_two_looks_are_no_illness_and_a_good_one_between_breaks_the_row() -> None:
    bad, good = (1e-6, 1e-3, 1.0), (1e-2, 1e-2, 1e-2)
    assert codes(bad, bad, good, bad, bad, good) == [False] * 6
    assert codes(bad, bad, good, bad, bad, bad)[-1]


def test_an_adaptive_optimizer_bears_a_wider_spread() -> None:
    look = (2e-3, 1.0, 1.0)
    assert codes(look, look, look, adaptive=False)[-1]
    assert not codes(look, look, look, adaptive=True)[-1]


def test_weights_without_a_gradient_are_not_compared() -> None:
    judge = VanishingJudge(dict.fromkeys(NAMES, 1.0))
    assert [judge.judge({"last.weight": 1.0}, step=step) for step in range(5)] == [None] * 5
    assert [judge.judge({}, step=step) for step in range(5)] == [None] * 5
    frozen = [judge.judge({"second.weight": 1e-6, "last.weight": 1.0}, step=step) for step in range(3)]
    assert frozen[-1] is not None
    assert frozen[-1].where == "second.weight"


@given(st.lists(st.tuples(*[st.floats(1e-3, 10.0)] * 3), max_size=12))
def test_usual_norms_are_quiet(looks: list[tuple[float, float, float]]) -> None:
    assert not any(codes(*looks, adaptive=True)) or max(max(look) / min(look) for look in looks) > 1e3


def test_the_state_goes_on() -> None:
    whole, broken = (VanishingJudge(dict.fromkeys(NAMES, 1.0)) for _ in range(2))
    look = dict(zip(NAMES, (1e-6, 1e-3, 1.0), strict=True))
    for step in range(2):
        whole.judge(look, step=step)
    broken.load_state_dict(whole.state_dict())
    assert broken.judge(look, step=2) == whole.judge(look, step=2) is not None


def graph_of(net: nn.Module, x: torch.Tensor) -> Graph:
    with Recorder(net, x) as recorder:
        out = net(x)
        recorder.mark_loss((out[0] if isinstance(out, tuple) else out).square().mean())
    return recorder.graph


def chain(depth: int, activation: type[nn.Module], *between: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(4, 4), *between, activation())))


@pytest.mark.parametrize(
    ("net", "cause"),
    [
        (chain(4, nn.Sigmoid), "saturation"),
        (chain(10, nn.Tanh), "saturation"),
        (chain(10, nn.ReLU), "depth"),
        (chain(10, nn.ReLU, nn.LayerNorm(4)), "initialization"),
        (chain(3, nn.ReLU), "initialization"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1), nn.Sigmoid()), "initialization"),
        (nn.RNN(4, 4), "recurrence"),
        (nn.LSTM(4, 4), "initialization"),
    ],
    ids=str,
)
def test_the_cause_is_read_off_the_graph(net: nn.Module, cause: str) -> None:
    assert (
        vanishing_cause(graph_of(net, torch.randn(3, 2, 4) if isinstance(net, nn.RNNBase) else torch.randn(3, 4)))
        == cause
    )
