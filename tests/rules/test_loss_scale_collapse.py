"""LT704 as a pure verdict on counts and scales."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import pytest

from lightning_tuning.findings import Finding, Severity
from lightning_tuning.rules.loss_scale_collapse import LossScaleJudge


def after(skips: Iterable[int], updates: int, scale: float | None = 65536.0, interval: int = 2000) -> Finding | None:
    judge, skips = LossScaleJudge(interval), set(skips)
    for update in range(1, updates + 1):
        judge.count(skipped=update in skips)
    return judge.verdict(scale)


@pytest.mark.parametrize(
    ("scale", "fires"),
    [
        (65536.0, False), (1.0, False), (math.inf, False), (math.nan, False), (None, False), (-1.0, False),
        (0.5, True), (2.0**-30, True), (0.0, True),
    ],
)  # fmt: skip
def test_the_scale(scale: float | None, fires: bool) -> None:
    finding = after(range(1, 18), 17, scale)
    assert (finding is not None) == fires
    if finding is not None:
        assert (finding.code, finding.severity, finding.where) == ("LT704", Severity.WARNING, "GradScaler")
        assert finding.evidence["scale"] == scale
        assert "bf16" in finding.remedy
        json.dumps(finding.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("skips", "updates", "fires"),
    [
        ([], 0, False),
        ([], 1, False),
        ([], 10_000, False),
        (range(1, 25), 24, False),  # the first search, from 2**24
        (range(1, 25), 300, False),
        (range(2000, 20_000, 2000), 20_000, False),  # growth, once in its interval
        (range(1, 301, 10), 299, False),  # too early to tell
        (range(1, 301, 10), 300, True),
        (range(101, 301, 20), 300, False),  # ten in two hundred are no more than allowed
        ([*range(101, 301, 20), 300], 300, True),
        (range(101, 112), 300, True),
        (range(101, 112), 301, False),  # out of the window
        (range(9900, 9911), 10_000, True),
    ],
)
def test_the_share_of_skips(skips: Iterable[int], updates: int, fires: bool) -> None:
    finding = after(skips, updates)
    assert (finding is not None) == fires
    if finding is not None:
        assert finding.evidence["skipped"] > 10
        assert "of the last 200 updates" in finding.message


@pytest.mark.parametrize("interval", [5, 10, 50])
def test_a_scaler_that_grows_often_also_skips_often(interval: int) -> None:
    assert after(range(0, 1000, interval + 1), 1000, interval=interval) is None
    assert after(range(0, 1000, 3), 1000, interval=interval) is not None


def test_an_interval_of_nothing() -> None:
    assert after(range(1000), 1000, interval=0) is None  # it grows after every update, and skips every other


def test_it_goes_on_after_a_checkpoint() -> None:
    first, second = LossScaleJudge(), LossScaleJudge()
    for update in range(1, 301):
        judge = first if update <= 250 else second
        if update == 251:
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        judge.count(skipped=update % 10 == 0)
    finding = second.verdict(None)
    assert finding is not None
    assert finding.evidence == {"updates": 300, "skipped": 20, "window": 200, "threshold": 0.05}
