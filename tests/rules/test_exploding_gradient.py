from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_tuning.findings import Finding
from lightning_tuning.rules.exploding_gradient import ExplosionJudge

NAMES = ("first.weight", "middle.weight", "last.weight")


def read(judge: ExplosionJudge, step: int, factor: float = 1.0, **kwargs: object) -> Finding | None:
    norms = [0.3 * factor, 0.4 * factor, 0.5 * factor]
    return judge.judge(step, math.hypot(*norms), norms, NAMES, **kwargs)


def settled(steps: int = 40) -> ExplosionJudge:
    judge, noise = ExplosionJudge(), random.Random(0)
    assert all(read(judge, step, noise.lognormvariate(0, 0.3)) is None for step in range(steps))
    return judge


@pytest.mark.parametrize("factor", [11.0, 1e6, math.inf], ids=["just above", "far above", "inf"])
def test_a_persistent_explosion_fires_at_the_third_reading(factor: float) -> None:
    judge = settled()
    found = [read(judge, 40 + i, factor * 2) for i in range(4)]
    assert [f is not None for f in found] == [False, False, True, True]
    assert [(f.count, f.step) for f in found if f is not None] == [(3, 40), (1, None)]


def test_nan_is_an_explosion_only_after_the_norm_had_grown() -> None:
    judge = settled()
    assert not any(read(judge, 40 + i, math.nan) for i in range(5))
    assert read(judge, 45, 9.0) is None
    found = [read(judge, 46 + i, math.nan) for i in range(3)]
    assert found[2] is not None
    assert found[2].message == "gradient norm is nan"


def test_an_explosion_that_ends_in_nan_says_how_it_began() -> None:
    judge = settled()
    found = [read(judge, 40 + i, factor) for i, factor in enumerate([30.0, math.nan, math.nan])]
    assert found[2] is not None
    assert found[2].message.startswith("gradient norm 21.2 > 10 x the median")
    assert found[2].message.endswith(", then nan")


def test_a_spike_up_to_where_the_run_began_explodes_nothing() -> None:
    judge = ExplosionJudge()
    assert not any(read(judge, step, 10 * 0.9**step) for step in range(200))
    assert not any(read(judge, 200 + i, 1e-3) for i in range(9))


def test_the_clip_is_far_below_what_exploded() -> None:
    judge = ExplosionJudge()
    assert not any(read(judge, step, 70.0 if step < 4 else 5.0) for step in range(12))
    found = [read(judge, 12 + i, 200.0) for i in range(3)]
    assert found[2] is not None
    assert found[2].evidence["suggested_clip"] < 20 * math.hypot(0.3, 0.4, 0.5)


@pytest.mark.parametrize("factor", [0.0, 1e-30, 1.0, 5.0])
def test_zero_small_and_usual_norms_never_fire(factor: float) -> None:
    judge = settled()
    assert not any(read(judge, 40 + i, factor) for i in range(4))


def test_one_or_two_spikes_are_no_finding() -> None:
    judge = settled()
    for start in (40, 400, 800):
        assert read(judge, start, 1000) is None
        assert read(judge, start + 1, 1000) is None
        assert not any(read(judge, step) for step in range(start + 2, start + 360))


def test_norms_that_fall_with_the_loss_are_healthy() -> None:
    judge = ExplosionJudge()
    assert not any(read(judge, step, 10.8 * 0.97**step + 0.5) for step in range(500))


def test_a_run_of_zeros_has_no_ratio() -> None:
    judge = ExplosionJudge()
    assert not any(judge.judge(step, 0.0, [0.0, 0.0], ("a", "b"), weights=(0, 1)) for step in range(50))
    assert judge.judge(50, 0.1, [0.1, 0.0], ("a", "b"), weights=(0, 1)) is None


def test_a_lasting_new_level_becomes_usual() -> None:
    judge = settled(200)
    fired = [read(judge, 200 + i, 12) is not None for i in range(400)]
    assert fired[5]
    assert not any(fired[300:])


def test_it_starts_at_the_parameter_nearest_to_the_loss_that_grew() -> None:
    judge = settled()
    found = None
    for step in range(40, 43):
        norms = [300.0, 400.0, 0.5]
        found = judge.judge(step, math.hypot(*norms), norms, NAMES)
    assert found is not None
    assert found.where == "middle.weight"


def test_the_place_stays_that_of_the_beginning() -> None:
    judge = settled()
    read_at = [[0.3, 0.4, 500.0], [900.0, 0.4, 500.0], [9000.0, 8000.0, 0.1], [math.nan] * 3]
    found = [judge.judge(40 + i, math.hypot(*norms), norms, NAMES) for i, norms in enumerate(read_at)]
    assert {f.where for f in found if f is not None} == {"last.weight"}


def test_a_spread_starts_at_the_first_weight() -> None:
    judge = ExplosionJudge()
    norms = [500.0, 3.0, 1.0]
    found = [judge.judge(step, math.hypot(*norms), norms, NAMES, weights=(0, 1, 2)) for step in range(3)]
    assert found[2] is not None
    assert found[2].where == "first.weight"


def test_the_first_layer_far_above_the_last_fires() -> None:
    judge = ExplosionJudge()
    norms = [71.0, 3.0, 1.0]
    found = [judge.judge(step, math.hypot(*norms), norms, NAMES, weights=(0, 1, 2)) for step in range(3)]
    assert found[-1] is not None
    assert "71" in found[-1].message
    quiet = ExplosionJudge()
    norms = [69.0, 3.0, 1.0]
    assert not any(quiet.judge(step, math.hypot(*norms), norms, NAMES, weights=(0, 1, 2)) for step in range(9))


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"recurrent": True}, "recurrent nets want clipping"),
        ({"horizon": 10_000}, "warm the learning rate up"),
        ({"horizon": 100}, "or lower the learning rate"),
    ],
)
def test_the_remedy_follows_the_cause(facts: dict[str, object], said: str) -> None:
    judge = settled()
    found = [read(judge, 40 + i, 1000, **facts) for i in range(3)]
    assert said in found[-1].remedy
    assert "gradient_clip_val=" in found[-1].remedy


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.5, 2.0), min_size=15, max_size=300))
def test_median_and_suggested_clip_are_those_of_the_window(factors: list[float]) -> None:
    judge = ExplosionJudge()
    for step, factor in enumerate(factors):
        judge.judge(step, factor, [factor], ("w",))
    window = sorted(factors[-200:])
    assert judge._norms.median == window[len(window) // 2]
    clip = min(statistics.quantiles(window, n=10)[-1], 3 * judge._norms.median)
    assert judge.suggested_clip() == pytest.approx(clip)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0, 1e30) | st.sampled_from([0.0, math.inf, math.nan]), min_size=2, max_size=80),
    st.integers(0, 80),
)
def test_a_resumed_judge_goes_on_as_if_unbroken(norms: list[float], cut: int) -> None:
    unbroken, part = ExplosionJudge(), ExplosionJudge()
    said = [unbroken.judge(step, norm, [norm], ("w",)) for step, norm in enumerate(norms)]
    again = [part.judge(step, norm, [norm], ("w",)) for step, norm in enumerate(norms[:cut])]
    resumed = ExplosionJudge()
    resumed.load_state_dict(part.state_dict())
    again += [resumed.judge(step, norm, [norm], ("w",)) for step, norm in enumerate(norms[cut:], start=len(again))]
    assert repr(again) == repr(said)


def severities(factors: list[float]) -> set[str]:
    judge = ExplosionJudge()
    found = [read(judge, step, factor) for step, factor in enumerate(factors)]
    return {str(finding.severity) for finding in found if finding is not None}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tail", ["heavy", "rare", "often"])
def test_spikes_one_by_one_all_along_are_an_info(tail: str, seed: int) -> None:
    """Counts whose logarithm deviates by 1.5; a reward in one batch of 50, or in one of three."""
    draw = random.Random(seed)
    factors = {
        "heavy": [draw.lognormvariate(0, 1.5) for _ in range(1000)],
        "rare": [draw.lognormvariate(3.5 if draw.random() < 0.02 else 0, 0.3) for _ in range(1000)],
        "often": [draw.lognormvariate(3.5 if draw.random() < 0.33 else 0, 0.3) for _ in range(1000)],
    }[tail]
    assert severities(factors) == {"info"}


def test_an_explosion_among_such_spikes_is_a_warning() -> None:
    draw = random.Random(0)
    spiky = [draw.lognormvariate(3.5 if draw.random() < 0.02 else 0, 0.3) for _ in range(500)]
    assert severities([*spiky, *[100.0] * 8]) == {"info", "warning"}
    assert severities([*spiky, math.inf]) == {"info", "warning"}
