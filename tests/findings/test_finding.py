from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_tuning.findings import Finding, Rule, Severity

RULE = Rule("LT999", "too-much", Severity.WARNING, "fact", why="It is.", remedy="Take less.", source="Measured.")

evidence = st.dictionaries(st.text(max_size=8), st.floats() | st.integers() | st.text(max_size=8), max_size=4)
findings = st.builds(
    Finding,
    code=st.just("LT999"),
    name=st.just("too-much"),
    severity=st.sampled_from(Severity),
    message=st.text(max_size=20),
    where=st.text(max_size=20),
    source_line=st.none() | st.text(max_size=20),
    evidence=evidence,
    step=st.none() | st.integers(0, 10**9),
    epoch=st.none() | st.integers(0, 10**6),
    count=st.integers(1, 10**6),
)


@given(findings)
def test_to_dict_is_strict_json_and_comes_back(finding: Finding) -> None:
    text = json.dumps(finding.to_dict(), allow_nan=False)
    back = Finding.from_dict(json.loads(text))
    assert back.to_dict() == finding.to_dict()
    assert back.severity is finding.severity


@pytest.mark.parametrize(("value", "text"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_non_finite_evidence_becomes_text(value: float, text: str) -> None:
    assert RULE.finding("m", evidence={"loss": value}).to_dict()["evidence"] == {"loss": text}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, ""),
        ({"step": 3, "last_step": 3}, "step 3"),
        ({"step": 812, "last_step": 990, "count": 37}, "x37, steps 812-990"),
        ({"count": 2}, "x2"),
    ],
)
def test_steps_are_said_shortly(fields: dict[str, int], said: str) -> None:
    assert Finding("LT999", "too-much", Severity.INFO, "m", **fields).steps() == said


def test_text_names_place_line_remedy_and_how_to_silence() -> None:
    text = RULE.finding("9 > 3", where="net.0", source_line="model.py:7").text()
    assert text.splitlines()[0] == "LT999 too-much at net.0 (model.py:7): 9 > 3"
    assert "Take less." in text
    assert "TuningSuite(ignore=['LT999'])" in text


def test_severities_are_ordered_and_parsed() -> None:
    assert Severity.INFO < Severity.WARNING < Severity.ERROR
    assert [Severity.parse(str(s)) for s in Severity] == list(Severity)
    with pytest.raises(ValueError, match=r"`severity` must be one of 'info', 'warning', 'error', got 'bad'"):
        Severity.parse("bad")


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"code": "LT1"}, "`code`"),
        ({"code": "XX101"}, "`code`"),
        ({"name": "Too Much"}, "`name`"),
        ({"kind": "x"}, "`kind`"),
    ],
)
def test_a_badly_formed_rule_is_refused(change: dict[str, str], argument: str) -> None:
    good = {"code": "LT999", "name": "too-much", "kind": "fact"}
    with pytest.raises(ValueError, match=argument):
        Rule(**{**good, **change}, severity=Severity.INFO, why="", remedy="", source="")


def test_a_rule_gives_its_severity_and_remedy_unless_told_otherwise() -> None:
    plain, special = RULE.finding("m"), RULE.finding("m", severity=Severity.INFO, remedy="Do this.")
    assert (plain.severity, plain.remedy) == (Severity.WARNING, "Take less.")
    assert (special.severity, special.remedy) == (Severity.INFO, "Do this.")
