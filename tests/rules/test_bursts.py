from __future__ import annotations

import math
import random

import pytest

from lightning_tuning.rules._bursts import Bursts, _at_least


def bursts(events: list[int]) -> list[int]:
    """The events at which a burst was on."""
    counter, found = Bursts(), []
    for step in events:
        counter.add(step)
        found += [step] * counter.is_on
    return found


@pytest.mark.parametrize(
    ("events", "on"),
    [
        ([], []),
        ([500], []),
        ([500, 501], []),
        ([500, 501, 502], [502]),
        ([500, 505, 511], []),
        ([20, 21, 22], []),
        (list(range(20, 30)), [25, 26, 27, 28, 29]),
        (list(range(0, 2000, 3)), []),
    ],
)
def test_a_burst_is_more_than_the_rate_before(events: list[int], on: list[int]) -> None:
    assert bursts(events) == on


@pytest.mark.parametrize("rate", [0.005, 0.02, 0.07, 0.2, 0.4])
@pytest.mark.parametrize("seed", range(5))
def test_independent_events_are_hardly_ever_a_burst(rate: float, seed: int) -> None:
    draw = random.Random(seed)
    assert len(bursts([step for step in range(2000) if draw.random() < rate])) <= 2


def test_an_explosion_after_spikes_is_one() -> None:
    assert bursts([*range(0, 1000, 50), *range(1001, 1010)])[0] <= 1006


def test_the_tail_of_poissons_distribution() -> None:
    assert _at_least(0, 3.0) == 1
    assert _at_least(1, 0.5) == pytest.approx(1 - math.exp(-0.5))
    assert _at_least(3, 0.0) == 0


def test_state_survives() -> None:
    one, other = Bursts(), Bursts()
    for step in (100, 500, 501):
        one.add(step)
    other.load_state_dict(one.state_dict())
    one.add(502)
    other.add(502)
    assert one.is_on
    assert other.is_on
    assert other.state_dict() == one.state_dict()
