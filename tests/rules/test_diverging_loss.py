from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_tuning.findings import Finding, Severity
from lightning_tuning.rules.diverging_loss import DivergenceJudge
from tests.rules.test_loss_spike import HEALTHY, RISES, around, descent, noisy


def judged(losses: list[float], **arguments: Any) -> list[tuple[int, Finding]]:
    judge = DivergenceJudge(**arguments)
    found = [(step, judge.judge(step, loss)) for step, loss in enumerate(losses)]
    return [(step, finding) for step, finding in found if finding is not None]


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_a_healthy_loss(name: str) -> None:
    assert judged(HEALTHY[name]) == []


@pytest.mark.parametrize("name", RISES)
def test_nothing_is_said_of_a_rise_that_recovers_or_costs_little(name: str) -> None:
    assert judged(RISES[name][0]) == []


DIVERGING: dict[str, tuple[list[float], int]] = {
    # losses, and after how many it is told
    "a jump": (noisy(lambda step: descent(step) if step < 500 else 2.4, length=1000), 749),
    "a slow rise": (noisy(lambda step: descent(step) + max(0, (step - 500) / 300)), 1049),
    "ever faster": (noisy(lambda step: descent(step) * math.exp(max(0, (step - 300) / 30)), length=1000), 649),
    "from the start": (noisy(lambda step: 2.3 * math.exp(step / 300), length=1000), 499),
    "below zero": (around(lambda step: -100 + 150 * math.exp(-step / 80) + 200 * (step >= 900), 5.0), 1149),
}


@pytest.mark.parametrize("name", DIVERGING)
def test_what_leaves_its_minimum_is_a_warning_told_once(name: str) -> None:
    losses, after = DIVERGING[name]
    ((step, finding),) = judged(losses)
    assert (step, finding.severity) == (after, Severity.WARNING)
    assert finding.evidence["loss"] > finding.evidence["minimum"]
    assert finding.evidence["began"] > finding.evidence["minimum_at"]


def test_the_message_says_where_the_minimum_was() -> None:
    losses = [4.0] * 50 + [1.0] * 50 + [3.0] * 250
    ((step, finding),) = judged(losses)
    assert step == 349
    assert finding.message == (
        "loss averages 3, its minimum was 1 at step 50: above twice that for 5 checks of 50 steps"
    )
    assert finding.evidence == {"loss": 3.0, "minimum": 1.0, "minimum_at": 50, "began": 100, "share_lost": 2 / 3}


@pytest.mark.parametrize(("bad", "told"), [(4, 0), (5, 1), (9, 1)])
def test_checks_in_a_row(bad: int, told: int) -> None:
    losses = [4.0] * 50 + [1.0] * 50 + [3.0] * 50 * bad + [1.0] * 50
    assert len(judged(losses)) == told


def test_a_second_divergence_is_told_again() -> None:
    losses = [4.0] * 50 + ([1.0] * 50 + [3.0] * 250) * 2
    assert [step for step, _ in judged(losses)] == [349, 649]


def test_what_comes_down_again_learns() -> None:
    losses = [4.0] * 50 + [0.1] * 50 + [4.0 - 0.005 * step for step in range(300)]
    assert judged(losses) == []


def test_what_was_undone_says_nothing_any_more() -> None:
    judge = DivergenceJudge(every=10)
    losses = [4.0] * 10 + [1.0] * 10 + [3.0] * 49
    assert {judge.judge(step, loss) for step, loss in enumerate(losses)} == {None}
    assert judge.began == 20
    judge.drop()
    assert judge.began is None
    assert {judge.judge(step, 1.0) for step in range(70, 90)} == {None}
    assert [judge.judge(step, 3.0) is None for step in range(90, 140)] == [True] * 49 + [False]


@given(
    st.lists(st.floats(-1e30, 1e30) | st.sampled_from([0.0, 1.0, 8.0, math.inf, math.nan]), max_size=80),
    st.integers(0, 80),
)
def test_a_resumed_judge_goes_on_as_if_unbroken(losses: list[float], cut: int) -> None:
    unbroken, part, resumed = (DivergenceJudge(every=4, checks=2) for _ in range(3))
    said = [unbroken.judge(step, loss) for step, loss in enumerate(losses)]
    again = [part.judge(step, loss) for step, loss in enumerate(losses[:cut])]
    resumed.load_state_dict(part.state_dict())
    again += [resumed.judge(step, loss) for step, loss in enumerate(losses[cut:], start=len(again))]
    assert repr(again) == repr(said)
    assert resumed.state_dict() == unbroken.state_dict()
