from __future__ import annotations

import math

import pytest

from lightning_tuning.findings import Finding, Severity
from lightning_tuning.findings.causes import CAUSES
from lightning_tuning.rules.rate_above_stability import StabilityJudge, rate_above_stability, with_stable_rate
from lightning_tuning.trace.stability import Stability


def measured(sharpness: float, lr: float | None = 0.1, bound: float | None = 20.0) -> Stability:
    return Stability(sharpness, 0.01, 8, "SGD group 0", lr=lr, bound=bound, formula="2 / lr")


@pytest.mark.parametrize(
    ("sharpness", "lr", "bound", "fires"),
    [
        (100.0, 0.1, 20.0, True),
        (30.1, 0.1, 20.0, True),
        (30.0, 0.1, 20.0, False),
        (20.0, 0.1, 20.0, False),
        (21.0, 0.1, 20.0, False),
        (0.0, 0.1, 20.0, False),
        (-100.0, 0.1, 20.0, False),
        (100.0, None, None, False),
        (math.nan, 0.1, 20.0, False),
        (math.inf, 0.1, 20.0, False),
        (100.0, 0.1, math.nan, False),
        (100.0, 0.1, math.inf, False),
    ],
)
def test_table(sharpness: float, lr: float | None, bound: float | None, fires: bool) -> None:
    found = rate_above_stability(measured(sharpness, lr, bound))
    assert (found is not None) == fires


def test_what_is_said() -> None:
    found = rate_above_stability(measured(100.0))
    assert found is not None
    assert (found.code, found.where) == ("LT511", "SGD group 0")
    assert found.message == (
        "lr=0.1 is 5 x the largest stable one, 0.02: the sharpness of the batch loss, 100, exceeds 2 / lr = 20"
    )
    assert "`lr=0.02`" in found.remedy
    assert found.evidence["stable_lr"] == pytest.approx(0.02)
    assert found.evidence["excess"] == pytest.approx(5.0)


def test_the_threshold_is_an_argument() -> None:
    assert rate_above_stability(measured(21.0), excess=1.0) is not None
    assert rate_above_stability(measured(100.0), excess=6.0) is None


def judged(judge: StabilityJudge, *sharpness: float, start: int = 10) -> list[int | None]:
    """The count of each finding, over measurements ten steps apart."""
    found = [judge.judge(start + 10 * i, measured(value)) for i, value in enumerate(sharpness)]
    return [None if finding is None else finding.count for finding in found]


def test_three_of_ten_make_a_finding() -> None:
    assert judged(StabilityJudge(), 100, 90, 80, 70, 60) == [None, None, 3, 1, 1]
    assert judged(StabilityJudge(), 100, *[1.0] * 4, 90, *[1.0] * 3, 80) == [None] * 9 + [3]
    assert judged(StabilityJudge(), 100, *[1.0] * 4, 90, *[1.0] * 4, 80) == [None] * 11


def test_it_began_with_the_first_of_them() -> None:
    judge = StabilityJudge()
    assert judged(judge, 1.0, 100, 1.0, 90) == [None] * 4
    third = judge.judge(50, measured(80.0))
    assert third is not None
    assert (third.step, third.count, third.evidence["sharpness"]) == (20, 3, 80.0)
    assert (judge.above, judge.seen) == ([20, 40, 50], [10, 20, 30, 40, 50])


@pytest.mark.parametrize("calm", [1.0, math.nan, -5.0])
def test_what_was_long_ago_is_forgotten(calm: float) -> None:
    assert set(judged(StabilityJudge(), *([1e6] + [calm] * 4) * 12)) == {None}


@pytest.mark.parametrize(
    ("step", "sharpness", "count"), [(0, 121.0, 3), (0, 120.0, None), (0, 40.0, None), (10, 121.0, None)]
)
def test_a_start_from_which_no_net_comes_to_rest(step: int, sharpness: float, count: int | None) -> None:
    assert judged(StabilityJudge(), sharpness, start=step) == [count]


def test_after_such_a_start_each_counts() -> None:
    assert judged(StabilityJudge(), 130, 1.0, 100, 100, 100, start=0) == [3, None, 1, 1, 1]


def overflow(remedy: str) -> Finding:
    return Finding(
        "LT701", "non-finite-loss", Severity.ERROR, "the loss is inf", evidence={"cause": "x"}, remedy=remedy
    )


def rate_of(sharpness: float, lr: float | None = 0.3) -> Stability:
    return Stability(sharpness, 0.1, 9, "SGD group 0", lr=lr, bound=None if lr is None else 2 / lr, formula="2 / lr")


@pytest.mark.parametrize("sharpness", [math.nan, math.inf, -5.0, 0.0, 1.0, 9.9])
def test_nothing_is_added_where_the_rate_is_not_clearly_above(sharpness: float) -> None:
    assert with_stable_rate(overflow("clip."), rate_of(sharpness)) is None
    assert with_stable_rate(overflow("clip."), rate_of(80.0, lr=None)) is None


def test_the_stable_rate_is_added_to_a_finding() -> None:
    finding = with_stable_rate(overflow("clip."), rate_of(80.0), when="at the weights of step 7")
    assert finding is not None
    assert finding.message == (
        "the loss is inf; lr=0.3 is 12 x the largest stable one, 0.025, at the weights of step 7"
    )
    assert finding.evidence == {"cause": "x", "lr": 0.3, "stable_lr": pytest.approx(0.025), "sharpness": 80.0}
    assert finding.remedy == "clip. The largest stable rate is `lr=0.025`."


def test_the_remedy_for_the_rate_is_made_exact() -> None:
    known = f"start again, and {CAUSES['learning-rate'].remedy}"
    finding = with_stable_rate(overflow(known), rate_of(80.0))
    assert finding is not None
    assert finding.remedy.startswith("start again, and lower the learning rate to `lr=0.025` or less")
    assert "tenfold" not in finding.remedy
