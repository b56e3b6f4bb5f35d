from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_tuning.rules._update_ratios import UpdateRatios, WeightUpdate
from lightning_tuning.rules.update_too_large import LargeUpdates
from lightning_tuning.rules.update_too_small import SmallUpdates


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30))
def test_the_median_is_that_of_the_last(ratios: list[float]) -> None:
    held = UpdateRatios(5)
    for ratio in ratios:
        held.add({"w": WeightUpdate(ratio)})
    assert held.medians() == ({} if len(ratios) < 5 else {"w": statistics.median(ratios[-5:])})


@pytest.mark.parametrize("ratio", [math.nan, math.inf])
def test_what_is_no_number_is_no_reading(ratio: float) -> None:
    held = UpdateRatios(1)
    held.add({"w": WeightUpdate(ratio)})
    held.add({})
    assert held.medians() == {}


@pytest.mark.parametrize(
    ("ratios", "fires"),
    [
        ([0.2] * 5, True),
        ([0.1] * 5, False),
        ([1e-3] * 5, False),
        ([0.0] * 5, False),
        ([math.nan] * 5, False),
        ([math.inf] * 5, False),
        ([9.0, 9.0, 1e-3, 1e-3, 1e-3], False),
        ([0.2] * 4, False),
        ([], False),
    ],
)
def test_large(ratios: list[float], fires: bool) -> None:
    judge = LargeUpdates()
    found = [judge.judge(150 + 50 * i, {"w": WeightUpdate(ratio)}) for i, ratio in enumerate(ratios)]
    assert any(found) is fires


def test_the_first_steps_do_not_count() -> None:
    judge = LargeUpdates()
    assert not any(judge.judge(step, {"w": WeightUpdate(5.0)}) for step in range(0, 101, 5))


def test_the_place_stays_while_it_is_large() -> None:
    judge = LargeUpdates()
    for step in range(200, 205):
        first = judge.judge(step, {"a": WeightUpdate(0.5), "b": WeightUpdate(0.4)})
    for step in range(205, 210):
        second = judge.judge(step, {"a": WeightUpdate(0.5), "b": WeightUpdate(0.9)})
    again = LargeUpdates()
    again.load_state_dict(judge.state_dict())
    third = again.judge(210, {"a": WeightUpdate(0.5), "b": WeightUpdate(0.9)})
    assert [finding and finding.where for finding in (first, second, third)] == ["a", "a", "a"]


@pytest.mark.parametrize(
    ("updates", "fires"),
    [
        ({"w": 1e-6}, True),
        ({"w": 0.0}, True),
        ({"w": 1e-5}, False),
        ({"w": 1e-3}, False),
        ({"w": math.nan}, False),
        ({"a": 1e-9, "b": 1e-3, "c": 1e-3}, False),  # of one layer speaks LT602
        ({"a": 1e-9, "b": 1e-9, "c": 1e-3}, True),
        ({}, False),
    ],
)
def test_small(updates: dict[str, float], fires: bool) -> None:
    judge = SmallUpdates()
    looks = [
        judge.judge({name: WeightUpdate(ratio, "SGD group 0") for name, ratio in updates.items()}) for _ in range(5)
    ]
    assert [look is not None for look in looks] == [False] * 4 + [fires]


def test_a_rate_that_is_below_its_highest_is_no_reading() -> None:
    judge = SmallUpdates()
    assert not any(judge.judge({"w": WeightUpdate(1e-9, relative_lr=0.4)}) for _ in range(9))


def test_groups_are_judged_apart() -> None:
    judge = SmallUpdates()
    for _ in range(5):
        found = judge.judge({"a": WeightUpdate(1e-3, "SGD group 0"), "b": WeightUpdate(1e-7, "SGD group 1")})
    assert found is not None
    assert found.where == "SGD group 1"
    again = SmallUpdates()
    again.load_state_dict(judge.state_dict())
    assert again.judge({"b": WeightUpdate(1e-7, "SGD group 1")}) is not None
