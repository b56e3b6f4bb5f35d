from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_tuning.findings import Finding, Severity
from lightning_tuning.rules.loss_spike import SpikeJudge

LENGTH = 1500


def judged(losses: Sequence[float], lrs: Sequence[float] | None = None, **arguments: Any) -> list[tuple[int, Finding]]:
    """What is found in a run, and after how many losses; at its end too."""
    judge = SpikeJudge(**arguments)
    found = [
        (step, finding)
        for step, loss in enumerate(losses)
        if (finding := judge.judge(step, loss, lr=math.nan if lrs is None else lrs[step])) is not None
    ]
    last = judge.close()
    return found if last is None else [*found, (len(losses), last)]


def descent(step: int, floor: float = 0.05, fall: float = 2.25, over: float = 60.0) -> float:
    """A cross entropy that is learned."""
    return floor + fall * math.exp(-step / over)


def noisy(curve: Callable[[int], float], spread: float = 0.3, length: int = LENGTH, seed: int = 0) -> list[float]:
    """With the noise of batches, which is as large as the loss."""
    draw = random.Random(seed)
    return [curve(step) * draw.lognormvariate(0, spread) for step in range(length)]


def around(curve: Callable[[int], float], spread: float, length: int = LENGTH, seed: int = 0) -> list[float]:
    """With noise of its own size."""
    draw = random.Random(seed)
    return [curve(step) + draw.gauss(0, spread) for step in range(length)]


def heavy(step: int, draw: random.Random = random.Random(1)) -> float:  # noqa: B008  # one stream for the table below
    return draw.expovariate(1) * draw.gauss(0, 1)


HEALTHY: dict[str, list[float]] = {
    "nothing": [],
    "one loss": [2.3],
    "zeros": [0.0] * 300,
    "constant": [0.7] * 300,
    "constant below zero": [-0.7] * 300,
    "noisy": noisy(descent, 0.5),
    "very noisy": noisy(descent, 1.2),
    "tiny when learned": noisy(lambda step: 1e-6 + 2.3 * math.exp(-step / 20), 1.0),
    "sum over a batch": around(lambda step: 1e5 + 4.5e5 * math.exp(-step / 80), 2e3),
    "log-likelihood below zero": around(lambda step: -100 + 150 * math.exp(-step / 80), 5.0),
    "through zero": around(lambda step: 3.0 - step / 250, 0.5),
    "policy gradient": around(lambda step: 0.0, 1.0),
    "heavy tails around zero": [heavy(step) for step in range(LENGTH)],
    "two tasks": [descent(step) * (10 if random.Random(step).random() < 0.5 else 1) for step in range(LENGTH)],
    "a rare task": [descent(step) * (10 if random.Random(step).random() < 0.1 else 1) for step in range(LENGTH)],
    "single odd batches": [descent(step) * (40 if step % 50 == 49 else 1) for step in range(LENGTH)],
    "NaN and infinity": [math.nan if step % 7 == 0 else math.inf if step % 5 == 0 else 1.0 for step in range(300)],
    "as large as floats are": [1e99 * (1 + step % 3) for step in range(300)],
    "slingshot": [1e-7 * (1e4 if step > 400 and step % 200 < 10 else 1) + descent(step, 0.0) for step in range(LENGTH)],
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_a_healthy_loss(name: str) -> None:
    assert [finding.message for _, finding in judged(HEALTHY[name])] == []


RESTARTS = [1e-4 + 0.05 * (1 + math.cos(math.pi * (step % 500) / 500)) for step in range(LENGTH)]

RISES: dict[str, tuple[list[float], list[float] | None]] = {
    "warm restarts": (noisy(lambda step: 0.5 * descent(step) + 4 * RESTARTS[step]), RESTARTS),
    "warm restarts with a rate that nobody knows": (
        noisy(lambda step: 0.5 * descent(step) + 4 * RESTARTS[step]),
        [math.nan] * LENGTH,
    ),
    "a harder part of the data, learned": (noisy(lambda step: descent(step % 1000)), None),
    "a harder part of the data, not learned": (
        noisy(lambda step: descent(step) if step < 800 else 0.8),
        None,
    ),
    "an easier half of the data": (noisy(lambda step: descent(step) * (0.5 if step // 300 % 2 else 1.2)), None),
    "bad batches": (noisy(lambda step: 2.4 if 800 <= step < 815 else descent(step)), None),
    "a slow recovery": (
        noisy(lambda step: descent(step) + (2.4 * math.exp(-(step - 800) / 40) if step >= 800 else 0)),
        None,
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", RISES)
def test_what_recovers_or_costs_little_is_an_info_at_most(name: str, seed: int) -> None:
    losses, lrs = RISES[name]
    shaken = [loss * random.Random(f"{seed} {step}").lognormvariate(0, 0.1) for step, loss in enumerate(losses)]
    assert {finding.severity for _, finding in judged(shaken, lrs)} <= {Severity.INFO}


BROKEN: dict[str, list[float]] = {
    "cross entropy": noisy(lambda step: descent(step) if step < 800 else 2.4, length=900),
    "sum over a batch": around(lambda step: 1e5 + 4e5 * math.exp(-step / 80) + 4e5 * (step >= 800), 2e3, 900),
    "log-likelihood below zero": around(lambda step: -100 + 150 * math.exp(-step / 80) + 160 * (step >= 800), 5.0, 900),
    "a small loss": noisy(lambda step: 1e-3 * (descent(step) if step < 800 else 2.4), length=900),
    "ever larger": noisy(lambda step: descent(step) * math.exp(max(0, step - 800) / 4), length=900),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_stays_up_and_costs_all_is_a_warning_told_once(name: str) -> None:
    ((after, finding),) = judged(BROKEN[name])
    assert finding.severity is Severity.WARNING
    assert 824 <= after <= 850
    assert 800 <= finding.evidence["began"] <= 815
    assert finding.evidence["share_lost"] > 0.5
    assert "has stayed up for" in finding.message


def test_a_spike_that_came_back_says_how_high_and_how_long() -> None:
    losses = [2.0] * 30 + [1.0] * 60 + [4.0] * 6 + [1.0] * 40
    ((after, finding),) = judged(losses)
    assert (after, finding.severity) == (100, Severity.INFO)
    assert finding.message == "loss rose from 1 to 4 and was back after 6 steps"
    assert finding.evidence == {"loss": 4.0, "usual": 1.0, "began": 90, "steps": 6, "share_lost": 3.0}


@pytest.mark.parametrize(("high", "told"), [(4, 0), (5, 1)])
def test_patience(high: int, told: int) -> None:
    losses = [2.0] * 20 + [1.0] * 60 + [4.0] * high + [1.0] * 40
    assert len(judged(losses)) == told


@pytest.mark.parametrize(("level", "told"), [(1.9, 0), (2.1, 1)])
def test_the_factor_of_the_mean(level: float, told: int) -> None:
    losses = [3.0] * 20 + [1.0] * 100 + [level] * 6 + [1.0] * 40
    assert len(judged(losses)) == told


def test_a_spike_at_the_end_of_the_run_is_told() -> None:
    ((after, finding),) = judged([2.0] * 20 + [1.0] * 60 + [4.0] * 7)
    assert (after, finding.severity) == (87, Severity.INFO)
    assert finding.message.endswith("was still up at the end of the run, 7 steps later")


def test_what_lasts_for_a_window_is_the_new_usual() -> None:
    losses = noisy(lambda step: descent(step) if step < 500 else 0.6)
    (_, first), *more = judged(losses, window=100)
    assert first.message.endswith("has stayed up for 100 steps")
    assert more == []


def test_a_risen_rate_is_named_and_has_to_cost_all() -> None:
    lrs = [0.1] * 800 + [3.0] * 100
    half = noisy(lambda step: descent(step) if step < 800 else 1.6, spread=0.2, length=900)
    assert {finding.severity for _, finding in judged(half, lrs)} == {Severity.INFO}
    assert {finding.severity for _, finding in judged(half)} == {Severity.WARNING}
    ((_, finding),) = judged(BROKEN["cross entropy"], lrs)
    assert finding.severity is Severity.WARNING
    assert finding.message.endswith("; the learning rate had risen from 0.1 to 3")
    assert (finding.evidence["lr_before"], finding.evidence["lr"]) == (0.1, 3.0)
    assert "lower it" in finding.remedy


def test_deviations_find_what_hardly_doubles() -> None:
    losses = around(lambda step: 2.5 + 8 * math.exp(-step / 80) + (step >= 1000), 0.05, 1100)
    assert judged(losses) == []
    ((after, finding),) = judged(losses, zscore=4.0)
    assert (after, finding.severity) == (1024, Severity.WARNING)
    assert judged(losses[:1000], zscore=4.0) == []


def test_deviations_leave_a_warm_restart_alone() -> None:
    losses = noisy(lambda step: 0.5 * descent(step) + 4 * RESTARTS[step], spread=0.1)
    assert {finding.severity for _, finding in judged(losses, RESTARTS, zscore=4.0)} == {Severity.INFO}


def test_what_was_undone_says_nothing_any_more() -> None:
    judge = SpikeJudge()
    losses = BROKEN["cross entropy"]
    assert all(judge.judge(step, loss) is None for step, loss in enumerate(losses[:820]))
    assert judge.began is not None
    judge.drop()
    assert judge.began is None
    assert all(judge.judge(step, descent(step)) is None for step in range(820, 900))
    assert judge.close() is None
    found = [judge.judge(step, 2.4) for step in range(900, 925)]
    assert found[-1] is not None
    assert found[-1].evidence["began"] == 900


@given(
    st.lists(st.floats(-1e30, 1e30) | st.sampled_from([0.0, 1.0, 8.0, math.inf, math.nan]), max_size=80),
    st.integers(0, 160),
)
def test_a_resumed_judge_goes_on_as_if_unbroken(losses: list[float], cut: int) -> None:
    settings: dict[str, Any] = {"patience": 2, "recovery": 4, "window": 40, "zscore": None}
    run = [1.0, 1.1, 0.9, 1.2] * 20 + losses
    unbroken, part, resumed = SpikeJudge(**settings), SpikeJudge(**settings), SpikeJudge(**settings)
    said = [unbroken.judge(step, loss, lr=0.1) for step, loss in enumerate(run)]
    again = [part.judge(step, loss, lr=0.1) for step, loss in enumerate(run[:cut])]
    resumed.load_state_dict(part.state_dict())
    again += [resumed.judge(step, loss, lr=0.1) for step, loss in enumerate(run[cut:], start=len(again))]
    assert repr(again) == repr(said)
    assert resumed.state_dict() == unbroken.state_dict()


@pytest.mark.parametrize("worst", [math.nan, math.inf, 1e200])
def test_a_spike_that_ends_in_no_number_has_not_recovered(worst: float) -> None:
    losses = [2.0] * 20 + [1.0] * 60 + [40.0] * 5 + [worst] * 40
    ((after, finding),) = judged(losses)
    assert (after, finding.severity) == (104, Severity.WARNING)
    assert finding.message == "loss rose from 1 to no finite number and has stayed up for 25 steps"
    assert finding.evidence["loss"] == math.inf


def test_an_odd_loss_followed_by_no_number_is_forgotten() -> None:
    judge = SpikeJudge()
    for step, loss in enumerate([2.0] * 20 + [1.0] * 60 + [40.0, math.nan] + [1.0] * 40):
        assert judge.judge(step, loss) is None
    assert judge.state_dict()["usual"]["losses"].count(40.0) == 1


def test_a_huge_beginning_is_no_recovery() -> None:
    losses = noisy(
        lambda step: descent(step) if step < 800 else 1e9 ** max(0.0, 1 - (step - 800) / 12) * 2.2, length=1000
    )
    ((after, finding),) = judged(losses)
    assert finding.severity is Severity.WARNING
    assert after <= 870
