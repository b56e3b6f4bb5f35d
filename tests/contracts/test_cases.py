"""Every rule's sick run gives its code at its place and nothing else; the healthy twin is quiet. Found by discovery."""

from __future__ import annotations

import contextlib
import importlib
import linecache
import warnings
from pathlib import Path

import lightning.pytorch as pl
import pytest

from lightning_tuning import CATALOGUE, Finding, Journal, Severity, TuningSuite
from tests.cases import Case, Run, case_files, cases
from tests.helpers import quiet_trainer

CASES = cases()

every_case = pytest.mark.parametrize("case", CASES, ids=str)

ON_SEVERAL_RANKS = {"LT905"}  # no run in one process can show it; see tests/guards/test_replica_drift.py
NOT_A_NUMBER = {"LT701", "LT702", "LT703"}  # have cases of their own kind; see tests/cases/nan
DEMANDED = {rule.code for rule in CATALOGUE} - ON_SEVERAL_RANKS - NOT_A_NUMBER


def findings_of(run: Run) -> list[Finding]:
    """What the recommended set finds in ``run``; Python warnings are those of the user's code, sick on purpose."""
    pl.seed_everything(0, verbose=False)
    module = run.module()
    trainer = quiet_trainer(callbacks=[TuningSuite(), *run.callbacks()], **run.trainer)
    expected = contextlib.nullcontext() if run.ends_with is None else pytest.raises(run.ends_with)
    with warnings.catch_warnings(), expected:
        warnings.simplefilter("ignore")
        trainer.fit(module, **run.fit)
    journal = Journal.of(trainer)
    assert [note for note in journal.notes if " failed (" in note] == []
    return journal.findings


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
    others = {finding.code for finding in found} - {case.code}
    assert others <= set(case.also), f"found besides:\n{texts}"


@every_case
def test_the_healthy_twin_is_quiet(case: Case) -> None:
    found = findings_of(case.healthy)
    heard = [finding.text() for finding in found if finding.code == case.code or finding.severity >= Severity.WARNING]
    assert heard == []


def test_every_rule_has_a_case() -> None:
    assert sorted(DEMANDED - {case.code for case in CASES}) == []


def test_a_case_lies_in_the_file_of_its_code() -> None:
    for path in case_files():
        held = {case.code for case in importlib.import_module(f"tests.cases.{path.stem}").CASES}
        assert held == {path.stem[:5].upper()}, path
    names = [str(case) for case in CASES]
    assert len(names) == len(set(names))
    assert {case.code for case in CASES} <= {rule.code for rule in CATALOGUE}
