from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_tuning import Severity
from lightning_tuning.rules.clipping_always import ClippingJudge


def judge_of(pairs: list[tuple[float, float | None]], window: int = 10) -> ClippingJudge:
    judge = ClippingJudge(window)
    for before, after in pairs:
        judge.take(before, after)
    return judge


def clip(before: float, bound: float) -> tuple[float, float]:
    return before, min(before, bound)


@given(st.lists(st.floats(0.01, 100), min_size=10, max_size=40), st.floats(0.05, 50))
def test_the_share_is_counted(norms: list[float], bound: float) -> None:
    judge = judge_of([clip(norm, bound) for norm in norms])
    clipped = sum(min(norm, bound) < 0.99 * norm for norm in norms[-10:])
    if clipped:
        assert judge.share == clipped / 10
        assert judge.threshold == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize(
    ("pairs", "share"),
    [
        ([], None),
        ([(2.0, 1.0)] * 9, None),
        ([(2.0, 1.0)] * 10, 1.0),
        ([(2.0, 1.0)] * 5 + [(0.5, 0.5)] * 5, 0.5),
        ([(2.0, 2.0 * (1 - 1e-6))] * 10, 1.0),  # all of one round norm: clipped before anybody looked
        ([(1.2345, None)] * 10, 0.0),  # of no round one: a constant gradient
        ([(1.0 + i / 7, None) for i in range(10)], 0.0),
        ([(0.5, None)] * 6 + [(0.1 + i / 100, None) for i in range(4)], 0.6),
        ([(math.nan, 1.0), (math.inf, 1.0), (0.0, 0.0), (1.0, math.nan)] * 10, None),
    ],
)
def test_readings(pairs: list[tuple[float, float | None]], share: float | None) -> None:
    assert judge_of(pairs).share == share


def test_the_finding_says_share_bound_percentile_and_rate() -> None:
    norms = [float(n) for n in range(1, 11)]
    finding = judge_of([clip(norm, 2.0) for norm in norms]).finding(where="SGD", lr=0.1, adaptive=False)
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert finding.evidence["share"] == 0.8
    assert finding.evidence["threshold"] == 2.0
    assert finding.evidence["suggested_clip"] == statistics.quantiles(norms, n=10)[-1]
    assert finding.evidence["equivalent_lr"] == pytest.approx(0.1 * 2.0 / 5.5)
    assert "lr=0.036" in finding.remedy


def test_of_adam_it_is_an_info_without_a_rate() -> None:
    finding = judge_of([(5.0, 1.0)] * 10).finding(where="Adam", lr=0.1, adaptive=True)
    assert finding is not None
    assert finding.severity is Severity.INFO
    assert "equivalent_lr" not in finding.evidence


def test_without_the_norms_before_nothing_is_suggested() -> None:
    finding = judge_of([(1.0, None)] * 10).finding(where="SGD", lr=0.1, adaptive=False)
    assert finding is not None
    assert finding.evidence.keys() == {"share", "threshold", "readings"}


@pytest.mark.parametrize("norms", [[], [1 + i / 7 for i in range(10)], [2.0] * 5 + [0.5] * 5])
def test_what_is_the_exception_is_quiet(norms: list[float]) -> None:
    assert judge_of([clip(norm, 1.9) for norm in norms]).finding(where="SGD", lr=None, adaptive=False) is None


def test_the_state_goes_on() -> None:
    first, second = judge_of([(5.0, 1.0)] * 6), ClippingJudge(10)
    second.load_state_dict(first.state_dict())
    for _ in range(4):
        second.take(0.5, 0.5)
    assert second.share == 0.6
