"""A recorded finding that is no longer what a run gives is noticed; the arithmetic of another machine is not."""

from __future__ import annotations

import dataclasses

import pytest

from lightning_tuning import Finding
from tests.cases import Case, cases
from tests.cases.recorded import ROOT, as_recorded, differences, recorded


def case_of(code: str) -> Case:
    return next(case for case in cases() if case.code == code)


def finding_of(code: str) -> Finding:
    return Finding.from_dict({**recorded()[str(case_of(code))], "evidence": {}})


def test_what_was_recorded_is_no_difference() -> None:
    assert differences(case_of("LT601"), finding_of("LT601")) == []


@pytest.mark.parametrize(
    ("message", "is_noticed"),
    [
        ("gradient norm 5.99 > 10 x the median 0.27", False),
        ("gradient norm 5.38 > 30 x the median 0.231", True),
        ("gradient norm -5.38 > 10 x the median 0.231", True),
        ("gradient norm 5.38 > 10 x the mean 0.231", True),
        ("gradient norm 5.38 > 10 x the median 0.231, again", True),
    ],
)
def test_words_and_thresholds_count(message: str, *, is_noticed: bool) -> None:
    changed = dataclasses.replace(finding_of("LT601"), message=message)
    assert [line.startswith("message: ") for line in differences(case_of("LT601"), changed)] == [True] * is_noticed


@pytest.mark.parametrize("changes", [{"where": "net.0"}, {"remedy": "pray"}, {"source_line": "a.py:3"}, {"step": None}])
def test_every_field_counts(changes: dict[str, object]) -> None:
    changed = dataclasses.replace(finding_of("LT601"), **changes)
    assert len(differences(case_of("LT601"), changed)) == 1


def test_nothing_of_this_machine_is_recorded() -> None:
    finding = dataclasses.replace(finding_of("LT601"), source_line=f"{ROOT}/tests/helpers.py:84", rank=1, count=7)
    kept = as_recorded(finding)
    assert kept["source_line"] == "tests/helpers.py:84"
    assert not {"rank", "count", "last_step", "evidence"} & kept.keys()
    assert str(ROOT) not in str(recorded())


def test_an_unknown_case_differs_in_everything() -> None:
    unknown = dataclasses.replace(case_of("LT601"), name="of tomorrow")
    assert len(differences(unknown, finding_of("LT601"))) >= 6
