"""What is taken, where from, and what it is called."""

from __future__ import annotations

import linecache
import warnings
from pathlib import Path
from typing import Any

import pytest

import lightning_tuning.rules  # noqa: F401  # a catalogue to look codes up in
from lightning_tuning.findings import Finding, Journal, Selection, Severity, TuningWarning
from lightning_tuning.findings.suppression import suppressed_codes


def finding(code: str = "LT301", line: str | None = None, **facts: Any) -> Finding:
    name = {"LT301": "dropout-before-batchnorm", "LT901": "no-best-checkpoint"}[code]
    return Finding(code, name, Severity.INFO, "it is", source_line=line, **facts)


@pytest.mark.parametrize(
    ("line", "ignored"),
    [
        ("legacy/net.py:3", True),
        ("legacy/deep/net.py:3", True),  # `*` crosses folders, as in fnmatch
        ("net.py:3", False),
        (None, False),
    ],
)
def test_a_path_has_rules_of_its_own(line: str | None, ignored: bool) -> None:
    selection = Selection(per_path_ignores={"legacy/*.py": ["lt3"]})
    assert (finding(line=line) not in selection) == ignored
    assert Finding("LT601", "exploding-gradient", Severity.INFO, "", source_line=line) in selection


@pytest.mark.parametrize(
    ("severity", "called"),
    [
        ({}, Severity.INFO),
        ({"LT301": "error"}, Severity.ERROR),
        ({"dropout-before-batchnorm": "warning"}, Severity.WARNING),
        ({"LT3": "error", "LT301": "warning"}, Severity.WARNING),
        ({"LT9": "error"}, Severity.INFO),
    ],
)
def test_severity_is_the_users(severity: dict[str, str], called: Severity) -> None:
    taken = Selection(severity=severity).taken(finding())
    assert taken is not None
    assert taken.severity is called


def test_what_is_ignored_is_not_called_anything() -> None:
    assert Selection(ignore=["LT3"], severity={"LT3": "error"}).taken(finding()) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"severity": {"LT301": "bad"}}, "`severity` must be one of 'info', 'warning', 'error', got 'bad'"),
        ({"severity": {"LT3011": "info"}}, "`severity` has 'LT3011', the code, prefix or name of no rule.*LT301"),
        ({"severity": ["LT301"]}, r"`severity` must be a table of names and values, got \['LT301'\]"),
        ({"per_path_ignores": {"a.py": "LT3"}}, r"`per_path_ignores\['a.py'\]` must be a list"),
        ({"per_path_ignores": {"a.py": ["LT999"]}}, "has 'LT999', the code"),
        ({"per_path_ignores": "a.py"}, "`per_path_ignores` must be a table"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Selection(**arguments)


@pytest.mark.parametrize(
    ("comment", "codes"),
    [
        ("# tuning: ignore[LT301]", {"LT301"}),
        ("# tuning: ignore[LT301, lt9] measured: it helps", {"LT301", "lt9"}),
        ("#tuning:ignore[dropout-before-batchnorm]", {"dropout-before-batchnorm"}),
        ("# noqa: E501  # Tuning: Ignore [LT3]", {"LT3"}),
        ("# tuning: ignore[]", set()),
        ("# tuning: ignore", set()),
        ("", set()),
    ],
)
def test_a_comment_on_the_line_silences(comment: str, codes: set[str]) -> None:
    linecache.clearcache()
    Path("net.py").write_text(f"first\nx = drop(x)  {comment}\n", encoding="utf-8")
    assert suppressed_codes("net.py:2") == codes
    silenced = bool(codes & {"LT301", "LT3", "dropout-before-batchnorm"})
    assert (finding(line="net.py:2") in Selection()) is not silenced
    assert finding(line="net.py:1") in Selection()


@pytest.mark.parametrize("line", [None, "", "no/such.py:3", "net.py", "net.py:x", "net.py:99", ":3"])
def test_a_line_that_cannot_be_read_silences_nothing(line: str | None) -> None:
    assert suppressed_codes(line) == frozenset()


@pytest.mark.parametrize(
    ("called", "while_learning", "while_diverging"), [("warning", "info", "warning"), ("error", "error", "error")]
)
def test_a_symptom_is_held_back_unless_it_is_an_error(called: str, while_learning: str, while_diverging: str) -> None:
    journal = Journal()
    journal.configure(severity={"LT601": called})
    for progress, severity in (("learning", while_learning), ("diverging", while_diverging)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TuningWarning)
            journal.rejudge(progress)  # type: ignore[arg-type]
            for step in range(3):
                journal.report(Finding("LT601", "exploding-gradient", Severity.WARNING, "norm"), step=step)
        assert [str(f.severity) for f in journal.findings] == [severity]
