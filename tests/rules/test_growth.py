"""What made numbers grow, by the updates before."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_tuning.findings.causes import CAUSES
from lightning_tuning.rules._growth import Pace, blame_growth
from lightning_tuning.rules.non_finite import BadStep, broken_weights, judge_bad_step
from lightning_tuning.trace import Origin

NAN, INF = math.nan, math.inf
SPIKE = (1.0, 1.0, 1.0, 50.0)
OVERFLOW = Origin("forward", "overflow", "mul", detail="mul of 1e30", bad=1, total=2, value="inf")


def pace(**known: Any) -> Pace:
    return Pace(**{"lr": 0.5, "before": 4.0, "now": 40.0, "updates": 3, **known})


@pytest.mark.parametrize(
    ("known", "stride"),
    [
        ({}, 3.0),
        ({"updates": 36}, 0.25),
        ({"smallest": 1.0, "known": 3}, 0.25),
        ({"smallest": 0.0}, 0.0),
        ({"smallest": INF}, 0.0),
        ({"smallest": NAN}, 0.0),
        ({"now": NAN}, 0.0),
        ({"now": INF}, 0.0),
        ({"now": 4.0}, 0.0),
        ({"now": 1.0}, -0.25),
        ({"before": 0.0}, 0.0),
        ({"before": 0.0, "smallest": 1.0}, 0.0),
        ({"before": NAN}, 0.0),
        ({"updates": 0}, 0.0),
        ({"updates": 0, "smallest": 9.0}, 0.0),
    ],
)
def test_stride(known: dict[str, Any], stride: float) -> None:
    assert pace(**known).stride == stride


@pytest.mark.parametrize(
    ("norms", "known", "more", "cause"),
    [
        ((), None, {}, None),
        (SPIKE, None, {}, "exploding-gradient"),
        ((1.0, 1.0, 9.0), None, {}, None),
        ((NAN, NAN, NAN), None, {}, None),
        # Small steps are no fault of the learning rate, large ones are, the smallest of them still large.
        (SPIKE, {"smallest": 0.01}, {}, "exploding-gradient"),
        ((1.0, 1.0), {"smallest": 0.99}, {}, None),
        ((1.0, 1.0), {"smallest": 1.0}, {}, "learning-rate"),
        (SPIKE, {"smallest": 1.0}, {}, "learning-rate"),
        # Of an optimizer that is not known here, a spike of gradients explains the growth as well.
        ((1.0, 1.0), {}, {}, "learning-rate"),
        (SPIKE, {}, {}, "exploding-gradient"),
        # A sum is to blame only if the mean would have been well.
        ((), {"smallest": 4.0, "proportional": True}, {"summed": 512}, "sum-reduction"),
        ((), {"smallest": 4000.0, "proportional": True}, {"summed": 512}, "learning-rate"),
        ((), {"smallest": 4.0}, {"summed": 512}, "learning-rate"),
        ((), {"smallest": 0.1, "proportional": True}, {"summed": 512}, None),
        ((), None, {"summed": 512}, None),
        # Gradients that were never set back explain all else.
        (SPIKE, {"smallest": 4.0, "proportional": True}, {"summed": 512, "stale_updates": 7}, "stale-gradient"),
    ],
)
def test_blame(norms: tuple[float, ...], known: dict[str, Any] | None, more: dict[str, int], cause: str | None) -> None:
    blame = blame_growth(norms, None if known is None else pace(**known), **more)
    assert (None if blame is None else blame.cause) == cause
    if blame is not None:
        assert blame.cause in CAUSES
        step = BadStep(
            losses=(INF,), origin=OVERFLOW, norms=norms, pace=None if known is None else pace(**known), step=9, **more
        )
        finding = judge_bad_step(step)
        assert finding.evidence["cause"] == cause
        assert finding.evidence["origin"] == "overflow"
        assert finding.remedy == CAUSES[blame.cause].remedy
        assert "mul of 1e30" in finding.message
        assert finding.message.endswith(blame.words)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, "the norm of the weights grew from 4 to 40 in 3 updates, with lr=0.5"),
        ({"updates": 1}, "the norm of the weights grew from 4 to 40 in 1 update, with lr=0.5"),
        ({"smallest": 6.0, "known": 1}, "the last update was 1.5 times as long as the weights (norm 4), with lr=0.5"),
        (
            {"smallest": 6.0, "known": 3},
            "each of the last 3 updates was at least 1.5 times as long as the weights (norm 4), with lr=0.5",
        ),
    ],
)
def test_words(known: dict[str, Any], words: str) -> None:
    blame = blame_growth((), pace(**known))
    assert blame is not None
    assert blame.words == words
    assert blame.evidence == {
        "lr": 0.5,
        "update_ratio": pace(**known).stride,
        "weight_norm": 4.0,
        "updates": pace(**known).updates,
    }


@pytest.mark.parametrize(
    "cause",
    ["log-of-zero", "division-by-zero", "sqrt-at-zero", "masked-softmax", "constant", "bad-sample", "not-reproduced"],
)
def test_growth_does_not_excuse_what_makes_nan_by_itself(cause: str) -> None:
    origin = Origin("batch" if cause == "bad-sample" else "forward", cause, "op", names=("batch",))
    step = BadStep(losses=(NAN,), origin=origin, norms=SPIKE, pace=pace(), stale_updates=9, summed=99, step=9)
    assert judge_bad_step(step).evidence["cause"] == cause


@pytest.mark.parametrize(
    ("more", "cause", "remedy"),
    [
        ({"norms": SPIKE}, "exploding-gradient", "and clip: `Trainer(gradient_clip_val=...)`"),
        ({"pace": pace(now=NAN, smallest=9.0)}, "learning-rate", "and lower the learning rate"),
        ({"pace": pace(now=NAN)}, "bad-weights", "with a lower learning rate or clipped gradients"),
        ({}, "bad-weights", "with a lower learning rate or clipped gradients"),
    ],
)
def test_weights_that_broke(more: dict[str, Any], cause: str, remedy: str) -> None:
    finding = broken_weights(["a"], when="now", step=4, **more)
    assert finding.evidence["cause"] == cause
    assert str(finding.remedy).startswith("start again from the last good checkpoint, ")
    assert remedy in str(finding.remedy)
    before = broken_weights(["a"], when="before the first step", step=0)
    assert "nothing was trained yet" in str(before.remedy)
