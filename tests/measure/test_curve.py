from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_tuning.measure import LossCurve


def curve_of(losses: list[float]) -> LossCurve:
    curve = LossCurve()
    for loss in losses:
        curve.add(loss)
    return curve


@pytest.mark.parametrize("count", [0, 9, 10, 639, 640, 5000, 100_000])
def test_its_memory_is_bounded_and_its_points_are_the_means(count: int) -> None:
    losses = [float(step % 7) for step in range(count)]
    curve = curve_of(losses)
    assert len(curve.points) < 64
    assert curve.batches == count
    size = curve.per_point
    for i, point in enumerate(curve.points):
        assert point.mean == pytest.approx(sum(losses[i * size : (i + 1) * size]) / size)


@pytest.mark.parametrize("seed", range(5))
def test_what_falls_is_seen_to_and_noise_is_not(seed: int) -> None:
    noise = random.Random(seed)
    assert curve_of([2.3 - 0.001 * step + noise.gauss(0, 0.1) for step in range(400)]).falls(certain=3.0)
    assert not curve_of([2.3 + noise.gauss(0, 0.1) for step in range(400)]).falls(certain=3.5)
    assert not curve_of([2.3] * 400).falls()


def test_too_few_points_have_no_slope() -> None:
    assert not curve_of([3.0, 2.0] * 10).falls()
    assert LossCurve().slope().error == float("inf")


def test_a_bad_size_is_refused() -> None:
    with pytest.raises(ValueError, match="`batches` must be at least 2, got 1"):
        LossCurve(1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e90, 1e90), max_size=700), st.integers(0, 700))
def test_a_resumed_curve_goes_on_as_if_unbroken(losses: list[float], cut: int) -> None:
    resumed = LossCurve()
    resumed.load_state_dict(curve_of(losses[:cut]).state_dict())
    for loss in losses[cut:]:
        resumed.add(loss)
    assert resumed.state_dict() == curve_of(losses).state_dict()
