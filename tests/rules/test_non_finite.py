"""LT701, LT702, LT703 as pure verdicts."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from lightning_tuning.findings import CATALOGUE, Severity
from lightning_tuning.findings.causes import CAUSES
from lightning_tuning.rules.non_finite import REMEDIES, BadStep, broken_weights, judge_bad_step
from lightning_tuning.trace.nonfinite import Origin

NAN, INF = math.nan, math.inf
OVERFLOW = Origin(
    "forward", "overflow", "matmul", module="net.4", detail="matmul above 3.4e38", bad=3, total=8, value="inf"
)


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (BadStep(losses=(NAN,)), "LT701"),
        (BadStep(losses=(INF,)), "LT701"),
        (BadStep(losses=(-INF,)), "LT701"),
        (BadStep(losses=(0.0, NAN, 1.0)), "LT701"),
        (BadStep(losses=(NAN,), gradients=("a",)), "LT701"),
        (BadStep(losses=(0.0,), gradients=("a",)), "LT702"),
        (BadStep(gradients=("a",)), "LT702"),
        (BadStep(losses=(NAN,), gradients=("a",), weights=("b",)), "LT703"),
        (BadStep(weights=("b",)), "LT703"),
    ],
)
def test_which_rule(step: BadStep, code: str) -> None:
    finding = judge_bad_step(step)
    assert finding.code == code
    assert finding.severity == Severity.ERROR
    assert json.loads(json.dumps(finding.to_dict(), allow_nan=False))["code"] == code


@pytest.mark.parametrize("losses", [(), (0.0,), (1e308, -1.0)])
def test_a_healthy_step_has_no_finding(losses: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="`step` must have"):
        judge_bad_step(BadStep(losses=losses))


@pytest.mark.parametrize(
    ("norms", "grew"),
    [
        ((), False),
        ((1e9,), False),
        ((1.0, 1e9), False),
        ((1.0, 1.0, 11.0), True),
        ((1.0, 1.0, 9.0), False),
        ((0.0, 0.0, 0.0), False),
        ((0.0, 0.0, 5.0), False),
        ((1.0, 100.0, 1.0, 1.0), False),
    ],
)
def test_growth_of_gradients(norms: tuple[float, ...], grew: bool) -> None:
    for finding in (
        judge_bad_step(BadStep(losses=(NAN,), norms=norms)),
        judge_bad_step(BadStep(losses=(NAN,), norms=norms, origin=OVERFLOW)),
        broken_weights(["a"], when="now", norms=norms),
    ):
        assert (finding.evidence["cause"] == "exploding-gradient") is grew
        assert ("gradients grew before" in finding.message) is grew
        assert ("grad_norms_before" in finding.evidence) is bool(norms)


def test_growth_does_not_excuse_a_bad_sample() -> None:
    origin = Origin("batch", "bad-sample", names=("batch['x']",), samples=(4, 9), bad=2, total=64, value="NaN")
    finding = judge_bad_step(BadStep(losses=(NAN,), norms=(1.0, 1.0, 50.0), origin=origin, rank=1))
    assert finding.evidence["cause"] == "bad-sample"
    assert finding.where == "batch['x']"
    assert finding.evidence["samples"] == "4, 9"
    assert finding.evidence["rank"] == 1
    assert "on rank 1" in finding.message


def test_place_and_line_are_said_once() -> None:
    origin = Origin(
        "forward", "log-of-zero", "log", module="head", source_line="a.py:3", detail="log of 0.0", bad=1, total=2
    )
    finding = judge_bad_step(BadStep(losses=(INF,), origin=origin))
    assert (finding.where, finding.source_line) == ("head", "a.py:3")
    assert finding.headline().count("a.py:3") == 1
    assert finding.remedy == REMEDIES["log-of-zero"]


def test_why_there_was_no_replay_is_said() -> None:
    finding = judge_bad_step(BadStep(losses=(INF,), blind="parameters are sharded"))
    assert finding.evidence["blind"] == "parameters are sharded"
    assert finding.message.endswith("parameters are sharded")


def test_many_parameters_are_counted() -> None:
    finding = judge_bad_step(BadStep(gradients=tuple("abcdefg")))
    assert "a, b, c and 4 more parameters is not" in finding.message
    assert "a, b, c and 1 more parameter is not" in judge_bad_step(BadStep(gradients=tuple("abcd"))).message
    assert finding.evidence["parameters"] == 7
    assert broken_weights(["a", "b"], when="now").message.startswith("a, b are not finite")


def test_every_cause_has_a_remedy_of_its_own() -> None:
    assert REMEDIES.keys() == CAUSES.keys()
    assert len(set(REMEDIES.values())) == len(CAUSES)
    assert CATALOGUE["LT703"].remedy == REMEDIES["bad-weights"]
    for cause in CAUSES.values():
        assert cause.meaning[0].islower() or cause.meaning.startswith("`")
        assert not cause.meaning.endswith(".")
        assert cause.remedy.endswith(".")


def test_the_batch_of_a_bad_sample_is_named() -> None:
    origin = Origin("batch", "bad-sample", names=("batch['x']",), samples=(5,), bad=1, total=8, value="NaN")
    assert "in sample 5 of batch 2:" in judge_bad_step(BadStep(losses=(NAN,), origin=origin, batch_idx=2)).message


def test_before_the_first_update_training_is_not_blamed() -> None:
    for finding in (
        broken_weights(["a"], when="before the first step"),
        judge_bad_step(BadStep(losses=(NAN,), weights=("a",))),
        judge_bad_step(BadStep(losses=(NAN,), origin=Origin("weights", "bad-weights", names=("buffer",)))),
    ):
        assert "nothing was trained yet" in finding.remedy
        assert "torch.empty" in finding.remedy
        assert "learning rate" not in finding.remedy
    assert "checkpoint" in broken_weights(["a"], when="now", step=1).remedy


def test_a_buffer_is_not_mended_by_a_lower_rate() -> None:
    origin = Origin("weights", "bad-weights", names=("running_var",), bad=1, total=3, value="NaN")
    finding = judge_bad_step(BadStep(losses=(NAN,), origin=origin, step=7))
    assert finding.message.endswith("not finite before the step: running_var (1 of 3 values are NaN)")
    assert "buffer" in finding.remedy
    assert "learning rate" not in finding.remedy


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        (Origin("forward", "empty-reduction", "std", detail="std of 1 value"), "`x.std() if len(x) > 1"),
        (Origin("forward", "empty-reduction", "var", detail="var of 1 value"), "correction=0"),
        (Origin("forward", "empty-reduction", "mean", detail="mean of no values"), "x.numel()"),
        (Origin("forward", "constant", "mul", detail="mul with inf"), "inf is a constant of the code"),
        (Origin("forward", "constant", "mul", detail="mul of a constant, or a value from outside torch"), "finite"),
        (Origin("not-reproduced", "not-reproduced"), "detect_anomaly=True"),
        (Origin("backward", "repeated-eigenvalues", "linalg_eigh"), "eigvalsh"),
        (Origin("backward", "sqrt-at-zero", "sqrt"), "clamp_min(eps).sqrt()"),
    ],
)
def test_the_remedy_fits_the_case(origin: Origin, said: str) -> None:
    assert said in judge_bad_step(BadStep(losses=(NAN,), origin=origin, step=4)).remedy


def test_what_a_repetition_cannot_see_is_said() -> None:
    origin = Origin("not-reproduced", "not-reproduced")
    finding = judge_bad_step(BadStep(losses=(NAN,), origin=origin))
    assert "state kept outside the module, on a race, on a nondeterministic operation" in finding.message
    often = judge_bad_step(BadStep(losses=(NAN,), origin=dataclasses.replace(origin, tries=3), norms=(1.0, 1.0, 50.0)))
    assert "the step was finite all 3 times that it was repeated" in often.message
    assert "gradients grew before: 1, 1, 50" in often.message
    assert (often.evidence["cause"], often.evidence["tries"]) == ("not-reproduced", 3)


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_makes_a_finding(cause: str) -> None:
    finding = judge_bad_step(BadStep(losses=(NAN,), origin=Origin("forward", cause, "op")))
    assert finding.evidence["cause"] == cause
    assert finding.remedy


@pytest.mark.parametrize("code", ["LT701", "LT702", "LT703"])
def test_declarations(code: str) -> None:
    rule = CATALOGUE[code]
    assert rule.kind == "fact"
    assert rule.severity == Severity.ERROR
