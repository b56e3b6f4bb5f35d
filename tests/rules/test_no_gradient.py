from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from lightning_tuning import Severity
from lightning_tuning.rules.no_gradient import SilenceJudge

WEIGHTS = {"a.weight": True, "a.bias": False, "b.weight": True, "b.bias": False, "c.d.weight": True, "c.d.bias": False}


def heard(*readings: Mapping[str, float], quiet: frozenset[str] = frozenset()) -> list[tuple[int, str, str]]:
    """The reading, place and severity of each finding."""
    judge = SilenceJudge(WEIGHTS)
    return [
        (number, finding.where, str(finding.severity))
        for number, reading in enumerate(readings, start=1)
        for finding in judge.take(tuple(reading), list(reading.values()), quiet=quiet)
    ]


def all_but(**norms: float | None) -> dict[str, float]:
    """Everything has a gradient of 1, but for what is given: ``a_weight=0.0``; ``None`` is no gradient at all."""
    given = {name.replace("_", "."): norm for name, norm in norms.items()}
    return {name: norm for name in WEIGHTS if (norm := given.get(name, 1.0)) is not None}


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (all_but(), []),
        (all_but(a_weight=0.0), [(10, "a.weight", "error")]),
        (all_but(a_bias=0.0), []),  # before a batch norm, say: never by itself
        (all_but(a_weight=None), [(200, "a.weight", "error")]),
        (all_but(a_bias=None), [(200, "a.bias", "error")]),
        (all_but(c_d_weight=None, c_d_bias=None), [(200, "c", "info")]),
        (all_but(c_d_weight=0.0, c_d_bias=0.0), [(200, "c", "info")]),  # its loss may weigh nothing for now
        (all_but(a_weight=math.nan), []),
        (all_but(a_weight=math.inf, b_weight=0.0), []),  # the GradScaler looks for its scale
        (dict.fromkeys(WEIGHTS, 0.0), []),  # nobody trains
        ({}, []),
    ],
)
def test_readings(reading: dict[str, float], expected: list[tuple[int, str, str]]) -> None:
    assert heard(*[reading] * 300) == expected


def test_a_net_of_zeros_is_one_finding_that_counts_the_rest() -> None:
    judge = SilenceJudge(WEIGHTS)
    reading = {**dict.fromkeys(WEIGHTS, 0.0), "c.d.bias": 0.5}
    findings = [finding for _ in range(300) for finding in judge.take(tuple(reading), list(reading.values()))]
    (finding,) = findings
    assert (finding.where, finding.severity) == ("c.d.weight", Severity.ERROR)
    assert finding.evidence["parameters"] == 5


def test_what_starts_behind_a_zero_is_quiet() -> None:
    assert heard(all_but(a_weight=0.0), *[all_but()] * 250) == []
    assert heard(*[all_but(a_weight=0.0)] * 9, *[all_but()] * 250) == []


def test_a_branch_that_is_taken_rarely_is_quiet() -> None:
    readings = [all_but(c_d_weight=None, c_d_bias=None)] * 150 + [all_but()] + [all_but(c_d_weight=None)] * 200
    assert heard(*readings) == []


def test_who_is_told_to_be_quiet_is() -> None:
    assert heard(*[all_but(a_weight=0.0)] * 300, quiet=frozenset({"a.weight"})) == []
    assert heard(*[all_but(b_bias=None)] * 300, quiet=frozenset({"b.bias"})) == []


def test_it_is_done_when_all_have_a_gradient() -> None:
    judge = SilenceJudge(WEIGHTS)
    assert not judge.is_done
    judge.take(tuple(WEIGHTS), [1.0] * len(WEIGHTS))
    assert judge.is_done
    assert SilenceJudge({}).is_done


def test_the_state_goes_on() -> None:
    first, second = SilenceJudge(WEIGHTS), SilenceJudge(WEIGHTS)
    reading = all_but(a_weight=0.0)
    for _ in range(6):
        first.take(tuple(reading), list(reading.values()))
    second.load_state_dict(first.state_dict())
    found = [finding.where for _ in range(4) for finding in second.take(tuple(reading), list(reading.values()))]
    assert found == ["a.weight"]
