from __future__ import annotations

import dataclasses
import gc
import warnings
import weakref
from collections.abc import Sequence

import pytest

from lightning_tuning.findings import (
    CATALOGUE,
    Diagnosis,
    Finding,
    Journal,
    ProgressState,
    Rule,
    Severity,
    TuningError,
    TuningWarning,
)
from lightning_tuning.rules.exploding_gradient import LT601

# These tests are about the journal; what it tells Python's warnings is asserted where it matters.
pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.findings.TuningWarning")

FACT = Rule("LT999", "too-much", Severity.WARNING, "fact", why="It is.", remedy="Take less.", source="Measured.")
ADVICE = Rule("LT998", "a-little", Severity.INFO, "fact", why="It is.", remedy="Take less.", source="Measured.")


class Listener:
    """A reporter that shows nothing itself and remembers all it is told."""

    def __init__(self, *, shows: bool = True) -> None:
        self.shows = shows
        self.told: list[Finding] = []
        self.closed: list[tuple[Sequence[Finding], Sequence[str]]] = []

    def finding(self, finding: Finding) -> bool:
        self.told.append(finding)
        return self.shows

    def close(self, findings: Sequence[Finding], notes: Sequence[str]) -> None:
        self.closed.append((list(findings), list(notes)))


def listened(**settings: object) -> tuple[Journal, Listener]:
    journal, listener = Journal(**settings), Listener()
    journal.reporters.append(listener)
    return journal, listener


def test_repeats_fold_and_are_told_once() -> None:
    journal, listener = listened()
    for step in range(812, 849):
        journal.report(FACT.finding("9 > 3", where="net.0"), step=step, epoch=2)
    journal.report(FACT.finding("9 > 3", where="net.1"), step=5)
    assert [(f.where, f.count, f.step, f.last_step, f.epoch) for f in journal.findings] == [
        ("net.1", 1, 5, 5, None),
        ("net.0", 37, 812, 848, 2),
    ]
    assert [f.where for f in listener.told] == ["net.0", "net.1"]


def test_once_drops_repeats() -> None:
    journal, _ = listened()
    journal.report(FACT.finding("m"), step=1)
    journal.report(FACT.finding("m"), step=2, once=True)
    assert [(f.count, f.last_step) for f in journal.findings] == [(1, 1)]


def test_findings_are_sorted_worst_first() -> None:
    journal, _ = listened()
    journal.report(ADVICE.finding("m"))
    journal.report(FACT.finding("m"))
    journal.report(FACT.finding("m", where="x", severity=Severity.ERROR))
    assert [f.severity for f in journal.findings] == [Severity.ERROR, Severity.WARNING, Severity.INFO]


@pytest.mark.parametrize(
    ("select", "ignore", "taken"),
    [
        (None, None, ["LT601", "LT998", "LT999"]),
        (["LT9"], None, ["LT998", "LT999"]),
        (["LT601", "LT999"], ["LT9"], ["LT601"]),
        (None, ["too-much"], ["LT601", "LT998"]),
        (None, ["encoder.*"], ["LT998", "LT999"]),
        (["encoder.*"], None, ["LT601"]),
        ([], None, []),
    ],
)
def test_select_and_ignore(select: list[str] | None, ignore: list[str] | None, taken: list[str]) -> None:
    rules = {rule.code: rule for rule in (FACT, ADVICE)}
    for rule in rules.values():
        if rule.code not in CATALOGUE:
            CATALOGUE.add(rule)
    try:
        journal, _ = listened(select=select, ignore=ignore)
    finally:
        for code in rules:
            CATALOGUE._rules.pop(code)
    journal.report(FACT.finding("m", where="head"))
    journal.report(ADVICE.finding("m"))
    journal.report(LT601.finding("m", where="encoder.0.weight"))
    assert sorted(f.code for f in journal.findings) == taken


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_finding": "shout"}, r"`on_finding` must be one of \('warn', 'raise'\), got 'shout'"),
        ({"select": "LT601"}, "`select` must be a list .* got 'LT601'"),
        ({"ignore": "LT601"}, "`ignore` must be a list .* got 'LT601'"),
        ({"ignore": ["LT6666"]}, "`ignore` has 'LT6666', the code, prefix or name of no rule"),
        ({"select": [""]}, "`select` has the entry ''"),
        ({"select": [601]}, "`select` has the entry 601"),
        ({"select": 601}, "`select` must be a list .* got 601"),
        ({"ignore": ["exploding-gradeint"]}, "`ignore` has 'exploding-gradeint'.*Nearest: LT601"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Journal(**settings)


def test_a_shown_warning_is_not_printed_twice_but_still_filtered() -> None:
    journal, listener = listened()
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(TuningWarning, match="LT999 too-much: m"):
            journal.report(FACT.finding("m"))
    with warnings.catch_warnings(record=True) as seen:
        warnings.resetwarnings()  # no filter of the user: what the reporter showed, Python does not print again
        journal.report(FACT.finding("m", where="a"))
        listener.shows = False
        journal.report(FACT.finding("m", where="b"))
    assert [str(w.message).splitlines()[0] for w in seen] == ["LT999 too-much at b: m"]


def test_info_is_told_without_a_warning() -> None:
    journal, listener = listened(on_finding="raise")
    journal.report(ADVICE.finding("m"))
    assert [f.code for f in listener.told] == ["LT998"]


def test_raise_raises_with_the_finding() -> None:
    journal, listener = listened(on_finding="raise")
    with pytest.raises(TuningError, match="LT999") as error:
        journal.report(FACT.finding("m"), step=4)
    assert error.value.finding == journal.findings[0] == listener.told[0]
    assert error.value.finding.step == 4


def test_ranks_that_raise_together_wait() -> None:
    journal, _ = listened(on_finding="raise")
    journal.raise_together = True
    journal.report(FACT.finding("first"))
    journal.report(FACT.finding("second", where="x"))
    pending = journal.take_pending()
    assert pending is not None
    assert pending.message == "first"
    assert journal.take_pending() is None


def test_fail_raises_whatever_on_finding_says() -> None:
    journal, listener = listened()
    with pytest.raises(TuningError):
        journal.fail(FACT.finding("m"), step=3, epoch=0)
    assert [f.step for f in journal.findings] == [3]
    assert len(listener.told) == 1


class TestOutcomeGate:
    def symptoms(self, journal: Journal, count: int) -> None:
        for step in range(count):
            journal.report(LT601.finding("norm"), step=step)

    def test_a_symptom_is_info_while_nobody_knows_and_while_the_run_learns(self) -> None:
        journal, _ = listened(on_finding="raise")
        self.symptoms(journal, 5)
        for state in ("learning", "converged"):
            journal.rejudge(state)
            self.symptoms(journal, 5)
        assert [f.severity for f in journal.findings] == [Severity.INFO]

    @pytest.mark.parametrize("state", ["flat", "diverging"])
    def test_a_held_symptom_becomes_a_warning_when_the_run_goes_wrong(self, state: str) -> None:
        journal, listener = listened(on_finding="raise")
        self.symptoms(journal, 3)
        with pytest.raises(TuningError, match="LT601"):
            journal.rejudge(state)
        assert [f.severity for f in listener.told] == [Severity.INFO, Severity.WARNING]

    def test_one_odd_step_is_no_illness(self) -> None:
        journal, _ = listened(on_finding="raise")
        journal.rejudge("flat")
        self.symptoms(journal, 2)
        assert [f.severity for f in journal.findings] == [Severity.INFO]
        with pytest.raises(TuningError):
            self.symptoms(journal, 1)

    def test_what_was_seen_while_the_run_learned_is_forgiven(self) -> None:
        journal, _ = listened(on_finding="raise")
        journal.rejudge("learning")
        self.symptoms(journal, 5)
        journal.rejudge("converged")
        journal.rejudge("flat")
        self.symptoms(journal, 2)
        assert [f.severity for f in journal.findings] == [Severity.INFO]
        with pytest.raises(TuningError):
            self.symptoms(journal, 1)

    @pytest.mark.parametrize(("state", "severity"), [("flat", Severity.WARNING), ("diverging", Severity.INFO)])
    def test_what_was_seen_of_the_set_up_stands_if_nothing_was_gained(self, state: str, severity: Severity) -> None:
        journal, listener = listened()
        listener.shows = True
        journal.report(dataclasses.replace(LT601.finding("seen at the start"), count=3), once=True)
        journal.rejudge("learning")
        resumed, shown = listened()
        shown.shows = True
        resumed.load_state_dict(journal.state_dict())
        for told in (journal, resumed):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TuningWarning)
                told.rejudge(state)
            assert [f.severity for f in told.findings] == [severity]

    @pytest.mark.parametrize(
        ("cause", "severity"), [("exploding-gradient", Severity.WARNING), ("bad-sample", Severity.INFO)]
    )
    @pytest.mark.parametrize("on_finding", ["warn", "raise"])
    def test_what_grew_until_the_run_broke_explains_it(self, on_finding: str, cause: str, severity: Severity) -> None:
        journal, _ = listened(on_finding=on_finding)
        self.symptoms(journal, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TuningWarning)
            with pytest.raises(TuningError, match="broken"):
                journal.fail(FACT.finding("broken", evidence={"cause": cause}), step=3, epoch=0)
        assert {f.code: f.severity for f in journal.findings}["LT601"] is severity
        assert journal.on_finding == on_finding

    def test_what_was_a_warning_stays_one(self) -> None:
        journal, listener = listened()
        listener.shows = True
        journal.rejudge("flat")
        with pytest.warns(TuningWarning):
            self.symptoms(journal, 3)
        journal.rejudge("learning")
        self.symptoms(journal, 3)
        assert [f.severity for f in journal.findings] == [Severity.WARNING]


def test_state_goes_on_without_telling_again() -> None:
    journal, _ = listened()
    with pytest.warns(TuningWarning):
        journal.report(FACT.finding("m", evidence={"loss": float("nan")}), step=3)
    journal.note("did something.")
    resumed, listener = listened()
    resumed.load_state_dict(journal.state_dict())
    resumed.report(FACT.finding("m"), step=9)
    assert [(f.count, f.step, f.last_step) for f in resumed.findings] == [(2, 3, 9)]
    assert resumed.notes == ["did something."]
    assert not listener.told


def test_giving_up_keeps_the_first_step_and_no_silencing_is_offered() -> None:
    journal, _ = listened()
    for step in range(9, 19):
        journal.report(FACT.finding("m"), step=step, epoch=0)
    with pytest.raises(TuningError) as error:
        journal.fail(FACT.finding("m"), step=19, epoch=1)
    assert journal.findings[0].steps() == "x11, steps 9-19"
    assert "silence" not in str(error.value)


def test_two_lines_of_one_module_are_two_findings() -> None:
    journal, _ = listened()
    for line in ("model.py:7", "model.py:9"):
        journal.report(FACT.finding("m", source_line=line))
    assert [f.source_line for f in journal.findings] == ["model.py:7", "model.py:9"]


def test_a_retired_code_silences_its_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE._retired, "LT600", "LT601")
    journal, _ = listened(ignore=["lt600"])
    journal.report(LT601.finding("m"))
    assert journal.findings == []


def test_other_ranks_resume_with_nothing_of_rank_zero() -> None:
    journal, other = Journal(), Journal(rank=1)
    journal.report(ADVICE.finding("m"), step=5)
    other.load_state_dict(journal.state_dict())
    assert other.findings == []
    other.report(ADVICE.finding("m"), step=1)
    other.report(ADVICE.finding("m"), step=90)
    journal.merge([*journal.findings, *other.findings])
    assert [f.steps() for f in journal.findings] == ["x3, steps 1-90"]


def test_merging_ranks_counts_each_once() -> None:
    journal, other = Journal(), Journal(rank=1)
    for book in (journal, other):
        book.report(ADVICE.finding("m"), step=1)
    other.report(ADVICE.finding("m", where="only there"), step=2)
    journal.merge([*journal.findings, *other.findings])
    assert sorted((f.where, f.count, f.rank) for f in journal.findings) == [("", 2, 0), ("only there", 1, 1)]


def test_a_journal_dies_with_its_owner() -> None:
    class Owner:
        pass

    owner = Owner()
    journal = weakref.ref(Journal.of(owner))
    assert Journal.of(owner) is journal()
    del owner
    gc.collect()
    assert journal() is None


def test_close_tells_rank_zero_only_and_begin_forgets() -> None:
    journal, listener = listened()
    journal.report(ADVICE.finding("m"))
    journal.note("skipped 1 batch.")
    journal.close()
    assert [(len(findings), notes) for findings, notes in listener.closed] == [(1, ["skipped 1 batch."])]
    journal.rank = 1
    journal.close()
    assert len(listener.closed) == 1
    journal.begin()
    assert (journal.findings, journal.notes) == ([], [])


TASTE = Rule("LT995", "taste", Severity.INFO, "advice", why="It is.", remedy="None.", source="A test.")


@pytest.mark.parametrize(
    ("progress", "in_the_run", "at_its_end"),
    [
        (["unknown"], 0, 1),
        (["unknown", "learning"], 0, 0),
        (["learning", "converged"], 0, 0),
        (["unknown", "flat"], 1, 1),
        (["learning", "diverging"], 1, 1),
        (["flat", "learning"], 1, 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_advice_is_withheld_from_runs_that_do_well(
    progress: list[ProgressState], in_the_run: int, at_its_end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOGUE._rules, "LT995", TASTE)
    journal, listener = listened()
    journal.report(TASTE.finding("one could"))
    for state in progress:
        journal.rejudge(state)
    assert len(journal.findings) == len(listener.told) == in_the_run
    resumed = Journal()
    resumed.load_state_dict(journal.state_dict())
    assert len(resumed.findings) == in_the_run
    for closing in (journal, resumed):
        closing.close()
        assert len(closing.findings) == at_its_end
    assert len(listener.told) == at_its_end


def test_the_diagnosis_is_told_before_the_end_and_forgotten_by_the_next_run() -> None:
    told: list[str] = []

    class Doctor:
        def finding(self, finding: Finding) -> bool:
            return False

        def diagnosis(self, diagnosis: Diagnosis) -> None:
            told.append(diagnosis.outcome)

        def close(self, findings: Sequence[Finding], notes: Sequence[str]) -> None:
            told.append("closed")

    journal = Journal()
    journal.reporters.append(Doctor())
    journal.diagnose = lambda findings, progress: Diagnosis(f"{len(findings)} findings, {progress}")
    journal.rejudge("flat")
    journal.close()
    assert told == ["0 findings, flat", "closed"]
    journal.begin()
    journal.close()
    assert told[2:] == ["closed"]
    assert journal.diagnosis is None
