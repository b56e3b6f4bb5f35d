"""What a range test suggests: for noisy curves, for broken ones, and against Lightning's own rule."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.tuner.lr_finder import _LRFinder

from lightning_tuning.functional import suggest_lr
from lightning_tuning.functional.lr_range import LRSuggestion, has_diverged, sweep_rates

RATES = sweep_rates(1e-7, 10.0, 100)
FLAT = "the loss does not fall at any rate by more than its noise"
RISES = "the loss does not fall at any rate before it diverges"


def curve(rates: list[float], noise: float = 0.0, seed: int = 0, *, middle: float = 1e-2) -> list[float]:
    """Falls from 2.3 to .8 about ``middle`` and leaps up from thirty times that on."""
    rng = random.Random(seed)
    clean = (2.3 - 1.5 / (1 + middle / rate) + min(1e9, (rate / (30 * middle)) ** 4) for rate in rates)
    return [loss * (1 + rng.gauss(0, noise)) for loss in clean]


def lightnings(rates: list[float], losses: list[float]) -> float:
    finder = _LRFinder("exponential", rates[0], rates[-1], len(rates))
    finder.results = {"lr": rates, "loss": losses}
    suggestion = finder.suggestion()
    assert suggestion is not None
    return suggestion


@pytest.mark.parametrize("steps", [50, 100, 200])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05, 0.1])
def test_noise_moves_it_by_less_than_half_a_decade(noise: float, steps: int) -> None:
    rates = sweep_rates(1e-7, 10.0, steps)
    found = [suggest_lr(rates, curve(rates, noise, seed)).suggested for seed in range(30)]
    assert all(rate is not None and 1e-2 / 10**0.75 <= rate <= 1e-2 * 10**0.25 for rate in found)


def test_where_lightnings_own_rule_says_a_millionth() -> None:
    """A difference of two losses divided by a difference of two rates is largest where the rates are smallest."""
    noisy = [curve(RATES, 0.05, seed) for seed in range(20)]
    theirs = [lightnings(RATES, losses) for losses in noisy]
    ours = [suggest_lr(RATES, losses).suggested for losses in noisy]
    assert statistics.median(theirs) < 1e-5
    assert all(rate is not None and 3e-3 < rate < 2e-2 for rate in ours)


def test_one_bad_batch_is_no_divergence_and_no_minimum() -> None:
    losses = curve(RATES, 0.02)
    for place, value in ((20, 50.0), (40, -50.0), (55, math.nan), (60, math.inf)):
        losses[place] = value
    found, clean = suggest_lr(RATES, losses), suggest_lr(RATES, curve(RATES, 0.02))
    assert found.suggested is not None
    assert clean.suggested is not None
    assert abs(math.log10(found.suggested / clean.suggested)) < 0.25


def test_an_end_that_is_not_finite_is_divergence() -> None:
    place = next(i for i, rate in enumerate(RATES) if rate > 0.1)
    found = suggest_lr(RATES, [*curve(RATES)[:place], *[math.nan] * (100 - place)])
    assert found.suggested is not None
    assert found.high is not None
    assert found.high < 0.1
    assert found.minimum_over_ten is not None
    assert 2e-3 < found.minimum_over_ten < 1e-2


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ([], "no loss was measured"),
        ([math.nan] * 100, "no loss was finite"),
        ([math.inf, -math.inf] * 50, "no loss was finite"),
        ([2.0] * 7 + [math.nan] * 93, "too few losses were finite: 7 < 8"),
        ([2.0, 1.0], "too few losses were finite: 2 < 8"),
        ([0.0] * 100, FLAT),
        ([2.3] * 100, FLAT),
        ([-2.3] * 100, FLAT),
        ([2.3 * (1 + 0.1 * math.sin(17.0 * i * i)) for i in range(100)], FLAT),
        ([2.3 + rate for rate in RATES], RISES),
        ([2.3 + 1e9 * rate for rate in RATES], RISES),
        ([2.3] * 20 + [math.nan] * 80, RISES),
        ([2.3 + i for i in range(100)], RISES),
    ],
)
def test_nothing_is_suggested_without_a_fall(losses: list[float], reason: str) -> None:
    assert suggest_lr(RATES[: len(losses)], losses) == LRSuggestion(reason=reason)


def test_noise_is_hardly_ever_taken_for_a_fall() -> None:
    def flat(seed: int) -> list[float]:
        rng = random.Random(seed)
        return [1.0 + 0.2 * rng.gauss(0, 1) for _ in RATES]

    assert sum(suggest_lr(RATES, flat(seed)).suggested is not None for seed in range(100)) <= 2


@settings(max_examples=50, deadline=None)
@given(
    scale=st.floats(1e-6, 1e6),
    noise=st.floats(0, 0.15),
    middle=st.floats(1e-4, 1e-1),
    steps=st.integers(60, 150),
    seed=st.integers(0, 1000),
)
def test_it_lies_in_its_interval_and_units_of_the_loss_do_not_matter(
    scale: float, *, noise: float, middle: float, steps: int, seed: int
) -> None:
    rates = sweep_rates(1e-7, 10.0, steps)
    losses = curve(rates, noise, seed, middle=middle)
    found = suggest_lr(rates, losses)
    scaled = suggest_lr(rates, [scale * loss for loss in losses])
    if found.suggested is None or found.low is None or found.high is None:
        assert scaled.reason == found.reason
        return
    assert scaled[:6] == pytest.approx(found[:6], rel=1e-3)
    assert rates[0] <= found.low <= found.suggested <= found.high <= 30 * middle


@settings(max_examples=100, deadline=None)
@given(losses=st.lists(st.floats(width=32), max_size=60))
def test_any_losses_give_a_rate_of_the_sweep_or_a_reason(losses: list[float]) -> None:
    found = suggest_lr(RATES[: len(losses)], losses)
    assert (found.suggested is None) != (found.reason is None)
    if found.suggested is not None:
        assert RATES[0] <= found.suggested <= RATES[-1]


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ([0.1, 0.2], "`losses` must be as many as `rates` \\(2\\), got 3"),
        ([0.0, 0.1, 0.2], "`rates` must be finite, above 0 and rising, got 0.0"),
        ([0.1, 0.1, 0.2], "rising, got 0.1 after 0.1"),
        ([0.1, math.nan, 0.2], "rising, got nan"),
        ([0.1, 0.2, math.inf], "rising, got inf"),
    ],
)
def test_refuses_rates(rates: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        suggest_lr(rates, [1.0, 1.0, 1.0])


def test_a_sweep_is_exponential() -> None:
    rates = sweep_rates(1e-4, 1.0, 9)
    assert (rates[0], rates[-1], len(rates)) == (1e-4, 1.0, 9)
    assert [b / a for a, b in itertools.pairwise(rates)] == pytest.approx([10**0.5] * 8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0.0, 1.0, 10), "`min_lr` must be a finite number above 0, got 0.0"),
        ((math.nan, 1.0, 10), "`min_lr` must be"),
        ((1.0, 1.0, 10), "`max_lr` must be finite and above `min_lr` \\(1\\), got 1.0"),
        ((1.0, math.inf, 10), "`max_lr` must be"),
        ((1e-3, 1.0, 7), "`steps` must be an integer of at least 8, got 7"),
        ((1e-3, 1.0, True), "`steps` must be"),
        ((1e-3, 1.0, 10.0), "`steps` must be"),
    ],
)
def test_a_sweep_refuses(arguments: tuple[float, float, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sweep_rates(*arguments)


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([], False),
        ([math.nan], True),
        ([1.0, math.inf], True),
        ([1.0, math.nan, 1.0], False),
        ([1.0] * 10, False),
        ([0.0] * 10, False),
        ([2.0] * 5 + [1.0] * 5 + [50.0], False),
        ([2.0] * 5 + [1.0] * 5 + [50.0] * 2, True),
        ([2.0] * 5 + [1.0] * 5 + [3.9] * 3, False),
        ([2.0] * 5 + [1e-9] * 5 + [1.0] * 3, False),
        ([2.0] * 5 + [1e-9] * 5 + [7.0] * 3, True),
        ([-1.0] * 5 + [-3.0] * 5 + [-2.0] * 3, False),
        ([-1.0] * 5 + [-3.0] * 5 + [7.0] * 3, True),
    ],
)
def test_a_sweep_ends_where_the_loss_runs_away(losses: list[float], diverged: bool) -> None:
    assert has_diverged(losses, 4.0) is diverged
