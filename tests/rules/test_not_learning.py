from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from lightning_tuning.measure import LossCurve
from lightning_tuning.rules._baseline import Baseline, LossForm, Sample, TargetMoments
from lightning_tuning.rules.not_learning import not_learning

KNOWN, UNKNOWN = LossForm(None, is_known=True), LossForm(None)
CLASSES = LossForm(None, classes=10)


def curve(of: Callable[[int], float], steps: int = 400, noise: float = 0.05, seed: int = 0) -> LossCurve:
    made, numbers = LossCurve(), random.Random(seed)
    for step in range(steps):
        made.add(of(step) + numbers.gauss(0, noise))
    return made


def flat(level: float) -> Callable[[int], float]:
    return lambda step: level


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("of", "form", "noise", "fires"),
    [
        (flat(2.31), KNOWN, 0.05, True),
        (flat(2.31), KNOWN, 1.0, False),  # too noisy to tell
        (flat(2.31), UNKNOWN, 0.05, False),
        (flat(2.31), UNKNOWN, 0.001, True),
        (flat(-1.0), UNKNOWN, 0.0, True),
        (flat(0.0), UNKNOWN, 0.1, False),  # a policy's
        (lambda step: 2.3 - 0.001 * step, KNOWN, 0.05, False),
        (lambda step: 2.3 * 0.9**step + 0.1, KNOWN, 0.01, False),
        (flat(2.31), CLASSES, 0.05, True),
        (flat(2.1), CLASSES, 0.05, False),
        (lambda step: 2.31 if step > 100 else 5.0 - 0.027 * step, CLASSES, 0.01, False),  # it learns the prior
    ],
)
def test_by_its_own_beginning_or_ln_k(
    of: Callable[[int], float], form: LossForm, noise: float, fires: bool, seed: int
) -> None:
    made = curve(of, noise=noise, seed=seed)
    falls_by_chance = made.falls(0.5)
    assert (not_learning(made, form) is not None) is (fires and not falls_by_chance)


def test_a_young_run_is_left_alone() -> None:
    assert not_learning(curve(flat(2.3), 190, 0.0), KNOWN) is None
    assert not_learning(LossCurve(), KNOWN) is None


@pytest.mark.parametrize(
    ("gain", "error", "fires"),
    [
        (0.0, 0.01, True),
        (-0.5, 0.01, True),
        (0.009, 0.002, False),  # R2 of .009 that is certain
        (0.009, 0.006, True),
        (0.1, 0.5, False),  # uncertain, and far from the baseline
    ],
)
def test_against_the_best_constant_answer(gain: float, error: float, fires: bool) -> None:
    made = curve(flat(1.0), noise=0.0)
    assert (not_learning(made, KNOWN, Baseline(1.0, gain, error, "var(y)")) is not None) is fires


def test_a_run_that_had_learned_and_lost_it_is_another_rules() -> None:
    made = curve(lambda step: 2.3 if step < 50 or step > 150 else 0.5, noise=0.0)
    assert not_learning(made, CLASSES, Baseline(2.3, 0.0, 0.01, "x")) is None


def batches(kind: str, answer: Callable[[float], float], count: int = 40, size: int = 64, seed: int = 0) -> Baseline:
    """Targets of a standard normal, answered by ``answer`` of them."""
    numbers, moments = random.Random(seed), TargetMoments(kind)
    for _ in range(count):
        y = [numbers.gauss(3, 1) for _ in range(size)]
        loss = sum((a - answer(a)) ** 2 for a in y) / size
        moments.add(Sample(loss, size, sum(y), sum(a * a for a in y)))
    made = moments.baseline()
    assert made is not None
    return made


def test_a_gain_of_one_percent_is_certain_and_none_is_not() -> None:
    weak, none = batches("mse", lambda y: 3 + 0.005 * (y - 3) + 0.0), batches("mse", lambda y: 3.0)
    assert weak.gain > 3 * weak.error
    assert abs(none.gain) < 0.01
    assert none.loss == pytest.approx(1.0, abs=0.1)
    far = batches("mse", lambda y: 0.0)
    assert far.gain == pytest.approx(-9, rel=0.1)


def test_the_baseline_of_classes_is_the_entropy_of_their_shares() -> None:
    moments = TargetMoments("cross_entropy", factor=0.5)
    for _ in range(20):
        moments.add(Sample(0.0, 20, counts=(15.0, 5.0, 0.0)))
    made = moments.baseline()
    assert made is not None
    assert made.loss == pytest.approx(0.5 * -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))


@pytest.mark.parametrize(
    "sample",
    [
        Sample(math.nan, 10, 1, 1),
        Sample(1.0, 0),
        Sample(1.0, 10, math.inf, 1),
        Sample(1.0, 64, 64 * 2.0, 64 * 4.0),  # all alike: no baseline
    ],
)
def test_nothing_is_known_of_broken_or_constant_targets(sample: Sample) -> None:
    moments = TargetMoments("mse")
    for _ in range(20):
        moments.add(sample)
    assert moments.baseline() is None


def test_too_few_targets_tell_nothing() -> None:
    moments = TargetMoments("bce_logits")
    for _ in range(7):
        moments.add(Sample(0.7, 64, 32, 32))
    assert moments.baseline() is None
    again = TargetMoments("bce_logits")
    again.load_state_dict(moments.state_dict())
    again.add(Sample(0.7, 64, 32, 32))
    made = again.baseline()
    assert made is not None
    assert made.loss == pytest.approx(math.log(2))
