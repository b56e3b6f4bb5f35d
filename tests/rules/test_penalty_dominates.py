from __future__ import annotations

import math

import pytest

from lightning_tuning.findings import Finding, Severity
from lightning_tuning.rules.penalty_dominates import PenaltyJudge, PenaltyReading

STEPS = (0, 25, 50, 100, 200, 400, 800)


def judged(readings: list[tuple[float, float]], horizon: int | None = 1000) -> list[Finding | None]:
    judge = PenaltyJudge(horizon)
    return [judge.judge(PenaltyReading(step, *reading)) for step, reading in zip(STEPS, readings, strict=False)]


def test_a_penalty_that_is_larger_than_an_error_that_stays() -> None:
    found = judged([(5.0, 2.3)] * 6)
    assert [finding is not None for finding in found] == [False] * 4 + [True] * 2, "not before 200 steps"
    last = found[-1]
    assert last is not None
    assert last.severity is Severity.WARNING
    assert last.evidence["penalty_share"] == pytest.approx(5 / 7.3)
    assert "multiply its coefficient by 0.05" in last.remedy


def test_one_that_has_shrunk_the_weights_instead_of_the_error() -> None:
    found = judged([(10.0, 2.3), (4.0, 2.3), (1.0, 2.3), (0.1, 2.3), (0.01, 2.3)])
    assert found[-1] is not None
    assert found[-1].severity is Severity.WARNING
    assert "has won" in found[-1].message


def test_an_error_that_goes_to_0_leaves_the_penalty_as_the_larger_part() -> None:
    found = judged([(0.7, 2.3), (0.7, 1.0), (0.7, 0.2), (0.7, 0.05), (0.7, 0.02), (0.7, 0.01), (0.7, 0.01)])
    assert [finding for finding in found if finding is not None and finding.severity >= Severity.WARNING] == []
    assert found[-1] is not None
    assert found[-1].severity is Severity.INFO


@pytest.mark.parametrize(
    "readings",
    [
        [(0.5, 2.3)] * 7,
        [(0.0, 2.3)] * 7,
        [(0.0, 0.0)] * 7,
        [(math.nan, 1.0)] * 7,
        [(5.0, math.inf)] * 7,
        [(math.inf, 1.0)] * 7,
        [(5.0, 2.3), (2.0, 2.3)] * 3,
        [(5.0, 2.3)] * 2 + [(2.0, 2.3)] * 5,
        [],
    ],
    ids=["below", "none", "zero", "NaN", "infinite error", "infinite", "now and then", "at first alone", "empty"],
)
def test_nothing_to_say(readings: list[tuple[float, float]]) -> None:
    assert not any(judged(readings))


@pytest.mark.parametrize(("horizon", "first"), [(60, 50), (300, 100), (1000, 200), (4000, 400), (None, 400)])
def test_long_is_a_part_of_the_run(horizon: int | None, first: int) -> None:
    found = judged([(5.0, 2.3)] * 7, horizon)
    assert STEPS[next(i for i, finding in enumerate(found) if finding)] == first


def test_negative_errors_have_a_share_too() -> None:
    assert PenaltyReading(0, 3.0, -1.0).share == 0.75
    assert math.isnan(PenaltyReading(0, 0.0, 0.0).share)
    found = judged([(5.0, -1.0)] * 7)
    assert found[-1] is not None
    assert found[-1].severity is Severity.WARNING


def test_state_survives() -> None:
    judge, other = PenaltyJudge(1000), PenaltyJudge(1000)
    for step in STEPS[:4]:
        judge.judge(PenaltyReading(step, 5.0, 2.3))
    other.load_state_dict(judge.state_dict())
    assert other.judge(PenaltyReading(200, 5.0, 2.3)) == judge.judge(PenaltyReading(200, 5.0, 2.3)) is not None
    other.load_state_dict(PenaltyJudge().state_dict())
    assert other.judge(PenaltyReading(300, 5.0, 2.3)) is None
