"""LT803, LT805 and LT806 by tables of readings."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest

from lightning_tuning.measure import LossCurve
from lightning_tuning.rules.oscillating_loss import OscillationJudge
from lightning_tuning.rules.predicting_the_prior import Spread, predicting_the_prior
from lightning_tuning.rules.under_training import under_training


def swings(losses: Sequence[float]) -> int:
    judge, curve, found = OscillationJudge(), LossCurve(), 0
    for loss in losses:
        curve.add(loss)
        found += judge.judge(loss, curve) is not None
    return found


def noisy(of: Callable[[int], float], steps: int, noise: float, seed: int = 0) -> list[float]:
    numbers = random.Random(seed)
    return [of(step) + numbers.gauss(0, noise) for step in range(steps)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("of", "noise", "fires"),
    [
        (lambda step: 1.0 if step // 4 % 2 else 4.0, 0.1, True),
        (lambda step: 2.5 + 1.5 * math.sin(step / 2), 0.1, True),
        (lambda step: 2.3, 0.2, False),  # batch noise
        (lambda step: (1.0 if step // 4 % 2 else 4.0) * 0.99**step, 0.01, False),  # and it learns
        (lambda step: (1.0 if step // 4 % 2 else 4.0) - 2.5, 0.1, False),  # around 0
        (lambda step: 0.0, 0.0, False),
    ],
)
def test_a_swing_without_progress_is_told(of: Callable[[int], float], noise: float, fires: bool, seed: int) -> None:
    assert (swings(noisy(of, 400, noise, seed)) > 0) is fires


def test_a_short_run_does_not_swing() -> None:
    assert swings([1.0, 1.0, 1.0, 1.0, 4.0, 4.0, 4.0, 4.0] * 24) == 0


def test_a_resumed_judge_goes_on_as_if_unbroken() -> None:
    losses = noisy(lambda step: 1.0 if step // 4 % 2 else 4.0, 150, 0.1)
    judge, resumed, curve = OscillationJudge(), OscillationJudge(), LossCurve()
    for loss in losses:
        curve.add(loss)
        judge.judge(loss, curve)
    resumed.load_state_dict(judge.state_dict())
    assert resumed.state_dict() == judge.state_dict()


@pytest.mark.parametrize(
    ("prediction", "target", "count", "fires"),
    [
        (0.0, 0.67, 3, True),
        (1e-5, 0.67, 3, True),
        (1e-5, 0.67, 2, False),
        (1e-3, 0.67, 3, False),
        (0.0, 0.0, 3, False),
        (math.nan, 0.67, 3, False),
        (math.inf, 0.67, 3, False),
        (0.0, 0.67, 0, False),
    ],
)
def test_outputs_that_are_alike_in_three_batches_are_told(
    prediction: float, target: float, count: int, fires: bool
) -> None:
    assert (predicting_the_prior([Spread(prediction, target, 16)] * count) is not None) is fires


def test_one_batch_with_different_outputs_clears() -> None:
    assert predicting_the_prior([Spread(0.0, 0.67, 16)] * 3 + [Spread(0.1, 0.67, 16)]) is None


@pytest.mark.parametrize(
    ("of", "steps", "lr", "fires"),
    [
        (lambda step: 2.3 - 2e-9 * step**3, 1000, 0.1, True),
        (lambda step: 2.3 - 2e-9 * step**3, 1000, 0.01, False),
        (lambda step: 2.3 - 2e-9 * step**3, 1000, math.nan, False),
        (lambda step: 2.3 - 2e-9 * step**3, 300, 0.1, False),
        (lambda step: 2.3 - 0.001 * step, 1000, 0.1, False),  # steadily: no more than its share
        (lambda step: 2.3 * 0.99**step, 1000, 0.1, False),
        (lambda step: 2.3, 1000, 0.1, False),
        (lambda step: 2.3 + 0.001 * step, 1000, 0.1, False),
    ],
)
def test_a_run_that_ends_in_the_midst_of_learning_is_told(
    of: Callable[[int], float], steps: int, lr: float, fires: bool
) -> None:
    curve = LossCurve()
    for loss in noisy(of, steps, 0.01):
        curve.add(loss)
    assert (under_training(curve, lr=lr, highest_lr=0.1) is not None) is fires


def test_of_nothing_nothing_is_said() -> None:
    assert under_training(LossCurve(), lr=0.1, highest_lr=0.1) is None
