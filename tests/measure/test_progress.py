from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_tuning.measure import Progress


def after(losses: list[float]) -> Progress:
    progress = Progress()
    for loss in losses:
        progress.update(loss)
    return progress


def noisy(curve: Callable[[int], float], steps: int, noise: float = 0.1, seed: int = 0) -> list[float]:
    random_numbers = random.Random(seed)
    return [curve(step) + random_numbers.gauss(0, noise) for step in range(steps)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("curve", "steps", "noise", "state"),
    [
        (lambda step: 2.3 * 0.99**step, 60, 0.1, "learning"),
        (lambda step: 2.3 * 0.98**step + 0.1, 600, 0.02, "converged"),
        (lambda step: 2.3, 400, 0.1, "flat"),
        (lambda step: 2.3 * 1.02**step, 200, 0.1, "diverging"),
        (lambda step: 2.3 * 0.98**step if step < 100 else 2.3 * 1.05 ** (step - 100), 200, 0.05, "diverging"),
        (lambda step: -100 - step, 100, 1.0, "learning"),
        (lambda step: -100.0, 400, 1.0, "flat"),
        (lambda step: -100 + step, 250, 1.0, "diverging"),
        (lambda step: 5e-7 * 0.99**step, 100, 1e-8, "learning"),
    ],
    ids=["falling", "fell", "constant", "rising", "turned", "nll falling", "nll constant", "nll rising", "tiny"],
)
def test_states(curve: Callable[[int], float], steps: int, noise: float, state: str, seed: int) -> None:
    assert after(noisy(curve, steps, noise, seed)).state == state


def test_a_run_that_learns_all_within_the_first_block_has_converged() -> None:
    for seed in range(5):
        losses = noisy(lambda step: 2.3 * 0.3**step + 0.01, 300, 0.005, seed)
        assert after(losses).state == "converged"


def test_a_heavy_tail_does_not_hide_the_gain() -> None:
    tail = random.Random(0)
    losses = [-9.4 * (step < 4) - 31 * (step >= 4) + 4 * tail.paretovariate(3) for step in range(400)]
    assert after(losses).state == "converged"


def test_losses_of_any_size_are_judged() -> None:
    assert after([1e200 * step for step in range(100)]).state == "diverging"
    assert after([1e90 * 0.9**step for step in range(100)]).state in ("learning", "converged")


def test_nothing_is_known_at_first() -> None:
    assert Progress().state == "unknown"
    assert after([2.3] * 25).state == "unknown"


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_divergence_until_the_run_recovers(broken: float) -> None:
    progress = after([*noisy(lambda step: 2.3 * 0.99**step, 60), broken])
    assert progress.state == "diverging"
    for loss in noisy(lambda step: 1.2 * 0.99**step, 60):
        progress.update(loss)
    assert progress.state == "learning"


@pytest.mark.parametrize("loss", [0.0, 1.0, -1.0, 1e30, 5e-324])
def test_a_constant_loss_is_flat(loss: float) -> None:
    assert after([loss] * 190).state == "unknown"
    assert after([loss] * 200).state == "flat"


def test_mute_knows_nothing() -> None:
    progress = after([2.3] * 300)
    progress.mute = True
    assert progress.state == "unknown"


def test_a_bad_block_is_refused() -> None:
    with pytest.raises(ValueError, match="`block` must be at least 2, got 1"):
        Progress(block=1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=64), max_size=120), st.integers(0, 120))
def test_a_resumed_progress_goes_on_as_if_unbroken(losses: list[float], cut: int) -> None:
    resumed = Progress()
    resumed.load_state_dict(after(losses[:cut]).state_dict())
    for loss in losses[cut:]:
        resumed.update(loss)
    assert resumed.state_dict() == after(losses).state_dict()
    assert resumed.state == after(losses).state


def leap(settles: float) -> list[float]:
    """Two sane losses, an explosion, and the level where it ends."""
    noise = random.Random(1)
    return [2.3, 2.3, *(settles + 3000 * 0.8**step + noise.gauss(0, 0.1 * settles) for step in range(600))]


def test_a_run_that_settles_above_its_very_first_losses_has_not_converged() -> None:
    assert after(leap(50.0)).state == "diverging"
    assert after(leap(3.45)).state == "flat"
    assert after(leap(0.5)).state == "converged"


@pytest.mark.parametrize("seed", range(5))
def test_heavy_tailed_losses_that_come_down_are_seen_to(seed: int) -> None:
    tail = random.Random(seed)
    losses = [(0.3 + 2 * 0.99**step) * tail.paretovariate(1.2) for step in range(1000)]
    assert after(losses).state in ("learning", "converged")


def test_a_loss_that_came_down_to_the_trivial_baseline_is_flat() -> None:
    progress = after(noisy(lambda step: 2.3 + 3 * 0.95**step, 400, 0.05))
    assert progress.state == "converged"
    progress.trivial = 2.3
    assert progress.state == "flat"
    progress.reset()
    assert progress.trivial is None
