"""The verdicts on what twelve looks came to: LT608, LT609, LT611."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_tuning.rules._activation_layers import ActivationLayer
from lightning_tuning.rules.attention_collapse import attention_collapse, large_scores
from lightning_tuning.rules.dead_units import dead_units
from lightning_tuning.rules.saturated_units import saturated_units

RELU = ActivationLayer("rectifier", "relu", "net.0", "net.py:3", (1,), 16, -1, "net.0.bias")
TANH = ActivationLayer("squash", "tanh", "net.0", "net.py:3", (1,), 16, -1, "net.0.bias")
HEADS = ActivationLayer("attention", "softmax", "net.attention", None, (1,), 6, -1)
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("dead", "looks", "shown", "found"),
    [
        (9, 10, 160, True), (16, 12, 1e6, True), (8, 12, 1e6, False), (0, 12, 1e6, False), (16, 9, 1e6, False),
        (16, 12, 99, False), (NAN, 12, 1e6, False), (16, NAN, 1e6, False), (16, 12, NAN, False), (16, 0, 0, False),
        (16, 12, INF, True),
    ],
)  # fmt: skip
def test_dead_units(dead: float, looks: float, shown: float, found: bool) -> None:
    finding = dead_units(RELU, dead=dead, looks=looks, shown=shown)
    assert (finding is not None) is found
    if finding is not None:
        assert (finding.code, finding.where, finding.source_line) == ("LT608", "net.0", "net.py:3")
        assert finding.evidence["dead"] == dead


@pytest.mark.parametrize(
    ("share", "looks", "found"),
    [
        (0.51, 10, True), (1.0, 12, True), (0.5, 12, False), (0.0, 12, False), (1.0, 9, False), (NAN, 12, False),
        (1.0, NAN, False), (1.0, 0, False),
    ],
)  # fmt: skip
def test_saturated_units(share: float, looks: float, found: bool) -> None:
    finding = saturated_units(TANH, share=share, looks=looks)
    assert (finding is not None) is found
    if finding is not None:
        assert (finding.code, finding.where, finding.evidence["share"]) == ("LT609", "net.0", share)


@pytest.mark.parametrize(
    ("numbers", "early", "seen"),
    [
        ((96, 0, 100), True, "one key"), ((95, 0, 100), True, None), ((0, 96, 100), False, "all keys alike"),
        ((0, 100, 100), True, None), ((0, 95, 100), False, None), ((50, 50, 100), False, None),
        ((0, 0, 0), False, None), ((NAN, 0, 100), True, None), ((100, 0, NAN), True, None),
        ((0, NAN, 100), False, None),
    ],
)  # fmt: skip
def test_attention_collapse(numbers: tuple[float, float, float], early: bool, seen: str | None) -> None:
    one_hot, uniform, rows = numbers
    given_: dict[str, Any] = {"one_hot": one_hot, "uniform": uniform, "rows": rows, "early": early}
    finding = attention_collapse(HEADS, looks=12, **given_)
    assert (None if finding is None else finding.evidence["seen"]) == seen
    assert attention_collapse(HEADS, looks=9, **given_) is None


@pytest.mark.parametrize(("spread", "found"), [(8.1, True), (8.0, False), (0.0, False), (NAN, False), (INF, False)])
def test_large_scores(spread: float, found: bool) -> None:
    assert (large_scores(HEADS, spread) is not None) is found


@given(st.floats(0, 16), st.floats(0, 1))
def test_a_healthy_layer_is_never_accused(dead: float, share: float) -> None:
    assert (dead_units(RELU, dead=dead, looks=12, shown=1e4) is None) == (dead <= 8)
    assert (saturated_units(TANH, share=share, looks=12) is None) == (share <= 0.5)
