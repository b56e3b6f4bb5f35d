"""Every rule's sick run gives its code at its place and nothing else; the healthy twin is quiet. Found by discovery."""

from __future__ import annotations

import importlib
import linecache
from pathlib import Path

import pytest

from lightning_tuning import CATALOGUE, Severity
from tests.cases import Case, case_files, cases
from tests.cases.recorded import differences, recorded
from tests.cases.running import findings_of

CASES = [case for case in cases() if case.ranks == 1]

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def text_at(source_line: str | None, case_file_names: dict[str, Path]) -> str:
    """The text of the line ``"file.py:12"`` of a case."""
    name, _, number = (source_line or "").rpartition(":")
    path = case_file_names.get(Path(name).name)
    return "" if path is None else linecache.getline(str(path), int(number))


@every_case
def test_the_sick_run_gives_its_code_at_its_place(case: Case) -> None:
    found = findings_of(case.sick)
    texts = "\n".join(finding.text() for finding in found)
    own = [finding for finding in found if finding.code == case.code and finding.where == case.where]
    assert own, f"{case.code} was not found at {case.where!r}; found:\n{texts}"
    assert str(own[0].severity) == case.severity, texts
    assert own[0].remedy
    assert own[0].evidence
    if case.line is not None:
        files = {path.name: path for path in case_files()}
        assert any(case.line in text_at(finding.source_line, files) for finding in own), texts
    assert differences(case, own[0]) == []
    others = {finding.code for finding in found} - {case.code}
    assert others <= set(case.also), f"found besides:\n{texts}"


@every_case
def test_the_healthy_twin_is_quiet(case: Case) -> None:
    found = findings_of(case.healthy)
    heard = [finding.text() for finding in found if finding.code == case.code or finding.severity >= Severity.WARNING]
    assert heard == []


def test_every_rule_has_a_case() -> None:
    assert {case.code for case in cases()} == {rule.code for rule in CATALOGUE}


def test_a_finding_is_recorded_of_every_case() -> None:
    """``python -m tests.cases`` writes them."""
    assert list(recorded()) == [str(case) for case in cases()]


def test_a_case_lies_in_the_file_of_its_code() -> None:
    for path in case_files():
        held = {case.code for case in importlib.import_module(f"tests.cases.{path.stem}").CASES}
        assert held == {path.stem[:5].upper()}, path
    names = [str(case) for case in cases()]
    assert len(names) == len(set(names))
