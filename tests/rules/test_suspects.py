from __future__ import annotations

import re

import pytest

from lightning_tuning import CATALOGUE, Finding, Severity
from lightning_tuning.rules._suspects import EXPLAINS_NOTHING, SUSPECTS, WHY, diagnosis_of, suspects, with_suspects

YET_TO_COME = {"LT302", "LT411", "LT508", "LT509", *(f"LT{number}" for number in range(602, 612)), "LT804"}
"""Codes of the specification that may not be in the catalogue yet."""
NAMED = {code for order in SUSPECTS.values() for code in order} | WHY.keys() | EXPLAINS_NOTHING | SUSPECTS.keys()


def finding(code: str, severity: Severity = Severity.WARNING, where: str = "") -> Finding:
    return Finding(code, "name", severity, "message", where=where)


def test_every_code_named_is_a_rule() -> None:
    known = {rule.code for rule in CATALOGUE}
    assert sorted(NAMED - known - YET_TO_COME) == []


def test_every_warning_explains_something_or_is_listed_as_explaining_nothing() -> None:
    heard = {rule.code for rule in CATALOGUE if rule.severity >= Severity.WARNING}
    explaining = {code for order in SUSPECTS.values() for code in order}
    assert sorted(heard - explaining - EXPLAINS_NOTHING) == []
    assert sorted(explaining & EXPLAINS_NOTHING) == []


def test_every_suspect_has_its_phrase_and_stands_once() -> None:
    for order in SUSPECTS.values():
        assert len(set(order)) == len(order)
        assert set(order) <= WHY.keys()
    assert WHY.keys() <= {code for order in SUSPECTS.values() for code in order}
    assert all(re.fullmatch(r"[^A-Z.].*[^.]", why) for why in WHY.values())


def test_warnings_come_before_infos_and_then_the_table_decides() -> None:
    found = [finding("LT401", Severity.INFO), finding("LT408"), finding("LT314", Severity.ERROR), finding("LT901")]
    assert [suspect.finding.code for suspect in suspects(found)] == ["LT314", "LT408", "LT401"]
    assert suspects([]) == []


def test_the_message_names_three_and_the_evidence_all() -> None:
    told = with_suspects(
        finding("LT801"), [finding(code, where="net") for code in ("LT102", "LT314", "LT401", "LT408")]
    )
    assert told.message.endswith("LT401 name at net, LT314 name at net, LT102 name at net")
    assert told.evidence["suspects"] == "LT401 LT314 LT102 LT408"
    assert with_suspects(finding("LT801"), []) == finding("LT801")


@pytest.mark.parametrize(
    ("codes", "progress", "outcome"),
    [
        ((), "learning", None),
        ((), "unknown", None),
        (("LT314",), "converged", None),
        (("LT801",), "converged", None),
        ((), "flat", "the run did not learn (flat after 400 batches)"),
        (("LT801",), "learning", "the run did not learn (flat after 400 batches)"),
        (("LT801", "LT805"), "flat", "the run did not learn (one answer for all samples, after 400 batches)"),
        ((), "diverging", "the run diverged (in 400 batches)"),
        (("LT803",), "flat", "the run did not learn (its loss swings, after 400 batches)"),
    ],
)
def test_a_diagnosis_is_made_of_runs_that_went_wrong(
    codes: tuple[str, ...], progress: str, outcome: str | None
) -> None:
    made = diagnosis_of([finding(code) for code in codes], progress, 400)
    assert (None if made is None else made.outcome) == outcome


def test_an_outcome_at_info_is_no_failure() -> None:
    assert diagnosis_of([finding("LT801", Severity.INFO)], "unknown", 400) is None
