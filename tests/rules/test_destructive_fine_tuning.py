from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from lightning_tuning.findings import Finding
from lightning_tuning.rules.destructive_fine_tuning import FineTuningJudge

LN_10 = math.log(10)


def found(losses: Sequence[float], judge: FineTuningJudge | None = None) -> list[Finding]:
    judge = judge or FineTuningJudge(baseline=LN_10)
    return [finding for step, loss in enumerate(losses) if (finding := judge.judge(step, loss)) is not None]


def noisy(levels: Sequence[float], spread: float = 0.2, seed: int = 0) -> list[float]:
    """Losses about ``levels``, with a deviation of ``spread`` of each."""
    draw = random.Random(seed)
    return [level * math.exp(spread * draw.gauss(0, 1)) for level in levels]


def test_what_was_known_is_lost() -> None:
    (finding,) = found(noisy([0.3] * 5 + [2.0] * 100))
    assert finding.severity.name == "WARNING"
    assert finding.evidence["since"] <= 15
    assert finding.evidence["ratio"] > 3


def test_lost_and_learned_anew() -> None:
    assert len(found(noisy([0.2] + [2.2 * 0.985**i + 0.3 for i in range(200)]))) == 1


def test_a_wild_run_is_no_doubtful_one() -> None:
    assert len(found(noisy([0.01] * 3 + [5.0] * 100, spread=1.5))) == 1


@pytest.mark.parametrize(
    "levels",
    [
        [0.3] * 400,
        [0.3 * 0.99**i for i in range(400)],
        [LN_10] * 400,
        [LN_10] * 20 + [9.0] * 200,
        [0.3] + [0.6] * 30 + [0.25] * 300,
        [0.3] + [0.4] * 300,
        [0.01] + [0.1] * 300,
        [0.3] * 260 + [2.0] * 200,
        [math.nan] * 100,
        [0.3] + [math.inf] * 100,
        [0.0] * 100,
        [0.3] * 5,
        [],
    ],
    ids=[
        "stays", "falls", "fresh", "fresh, and explodes", "a bump", "a little worse", "hardly worse", "late", "NaN",
        "infinite", "zeros", "short", "nothing",
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", range(5))
def test_nothing_to_say(levels: list[float], seed: int) -> None:
    assert found(noisy(levels, seed=seed)) == []


@pytest.mark.parametrize("seed", range(40))
def test_single_samples_are_no_measure(seed: int) -> None:
    """Batches of one: the first loss may be anything."""
    assert found(noisy([0.8] * 300, spread=1.5, seed=seed), FineTuningJudge(baseline=math.log(1000))) == []


def test_a_new_head_is_compared_after_its_warm_in() -> None:
    warm_in = [LN_10 * 0.95**i + 0.4 for i in range(50)]
    known = FineTuningJudge(baseline=LN_10, is_pretrained=True)
    (finding,) = found(noisy(warm_in + [2.3] * 100, spread=0.1), known)
    assert "down to" in finding.message
    assert found(noisy(warm_in + [0.4] * 200), FineTuningJudge(baseline=LN_10, is_pretrained=True)) == []
    assert found(noisy(warm_in + [2.3] * 100), FineTuningJudge(baseline=LN_10)) == [], "nobody says that it is trained"


def test_a_loss_without_a_baseline() -> None:
    assert len(found(noisy([0.3] + [2.0] * 150, spread=0.1), FineTuningJudge(is_pretrained=True))) == 1
    assert found(noisy([0.3] + [2.0] * 150), FineTuningJudge()) == []
    assert found(noisy([3.0 * 0.98**i for i in range(300)]), FineTuningJudge(is_pretrained=True)) == []


def test_it_is_done_when_there_is_nothing_to_wait_for() -> None:
    fresh, trained = FineTuningJudge(baseline=LN_10), FineTuningJudge(baseline=LN_10)
    found([2.3], fresh)
    assert fresh.is_done
    found([0.3] * 150, trained)
    assert not trained.is_done
    found([0.3] * 100, trained)
    assert trained.is_done


def test_state_survives() -> None:
    losses = noisy([0.3] * 5 + [2.0] * 100)
    whole, half, rest = (FineTuningJudge(baseline=LN_10) for _ in range(3))
    found(losses[:33], half)
    rest.load_state_dict(half.state_dict())
    (expected,) = found(losses, whole)
    (resumed,) = [f for step, loss in enumerate(losses[33:], 33) if (f := rest.judge(step, loss)) is not None]
    assert resumed == expected
