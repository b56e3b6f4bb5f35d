"""What became of the findings and losses of one run in another."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lightning_tuning.findings import Finding, Severity
from lightning_tuning.reporters.diff_table import diff_table
from lightning_tuning.reporters.loss_ends import loss_ends
from lightning_tuning.reporters.run_diff import compare_findings, compare_runs
from lightning_tuning.reporters.run_record import Block, Run, Sample

INFO, WARNING, ERROR = Severity


def finding(code: str = "LT604", severity: Severity = WARNING, **fields: Any) -> Finding:
    return Finding(code, "name", severity, fields.pop("message", "9 > 3"), **fields)


def at(line: str | None, where: str = "", **fields: Any) -> Finding:
    return finding(source_line=line, where=where, **fields)


def run(*findings: Finding, losses: list[float] | None = None, **fields: Any) -> Run:
    blocks = [Block(step, step, 0, loss=loss) for step, loss in enumerate(losses or ())]
    return Run(Path("run"), {"status": "finished"}, findings=findings, blocks=blocks, **fields)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (at("a.py:3", "net"), at("a.py:3", "net")),
        (at("a.py:3", "net"), at("a.py:9", "net")),
        (at("a.py:3", "net"), at("b.py:9", "net")),
        (at("a.py:3", "net"), at(None, "net")),
        (at("a.py:3"), at("a.py:9")),
        (at("a.py:3", "net"), at("a.py:3", "backbone")),
        (at(None), at(None)),
    ],
)
def test_it_is_the_same_finding(before: Finding, after: Finding) -> None:
    diff = compare_findings([before], [after])
    assert (diff.new, diff.gone) == ([], [])
    assert [(change.before, change.after, change.way) for change in diff.both] == [(before, after, 0)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (at("a.py:3"), at("b.py:3")),
        (at("a.py:3", "net"), at("a.py:9", "backbone")),
        (at(None, "net"), at(None, "backbone")),
        (at(None, "net"), at(None)),
        (finding("LT604"), finding("LT605")),
    ],
)
def test_it_is_another_finding(before: Finding, after: Finding) -> None:
    diff = compare_findings([before], [after])
    assert (diff.new, diff.gone, diff.both) == ([after], [before], [])
    assert diff.is_worse()


def test_what_lies_nearer_is_matched_first() -> None:
    before = [at("a.py:3", "net"), at("a.py:30", "net"), at("a.py:5", "head")]
    after = [at("a.py:5", "net"), at("a.py:30", "net"), at("a.py:7", "head")]
    diff = compare_findings(before, after)
    assert {(change.before.source_line, change.after.source_line) for change in diff.both} == {
        ("a.py:3", "a.py:5"),  # though another was at line 5 before
        ("a.py:30", "a.py:30"),
        ("a.py:5", "a.py:7"),
    }


def test_several_lines_of_one_place_keep_their_order() -> None:
    before = [at("a.py:9"), at("a.py:10"), at("a.py:100")]
    after = [at("a.py:103"), at("a.py:13"), at("a.py:12")]
    pairs = {(change.before.source_line, change.after.source_line) for change in compare_findings(before, after).both}
    assert pairs == {("a.py:9", "a.py:12"), ("a.py:10", "a.py:13"), ("a.py:100", "a.py:103")}


def measured(value: Any, threshold: Any = 10.0, severity: Severity = WARNING, **fields: Any) -> Finding:
    return finding(severity=severity, evidence={"ratio": value, "threshold": threshold, "weights": 3}, **fields)


@pytest.mark.parametrize(
    ("before", "after", "way", "why"),
    [
        (finding(severity=WARNING), finding(severity=ERROR), 1, "warning -> error"),
        (finding(severity=WARNING), finding(severity=INFO), -1, "warning -> info"),
        (measured(90.0), measured(12.0, severity=ERROR), 1, "warning -> error"),
        (measured(12.0), measured(48.0), 1, "ratio 12 -> 48, threshold 10"),
        (measured(48.0), measured(12.0), -1, "ratio 48 -> 12, threshold 10"),
        (measured(12.0), measured(13.0), 0, ""),
        (measured(12.0, 10.0), measured(12.0, 1.0), 1, "ratio 12 -> 12, threshold 1"),
        (measured(1e-6, 1e-5), measured(1e-7, 1e-5), 1, "ratio 1e-06 -> 1e-07, threshold 1e-05"),
        (measured(1e-6, 1e-5), measured(0.0, 1e-5), 1, "ratio 1e-06 -> 0, threshold 1e-05"),
        (measured(0.0, 1e-5), measured(0.0, 1e-5), 0, ""),
        (measured(12.0), measured("inf"), 1, "ratio 12 -> inf, threshold 10"),
        (measured("inf"), measured(math.inf), 0, ""),
        # what cannot be compared leaves the counts
        (measured(12.0), measured("nan"), 0, ""),
        (measured(12.0), measured(5.0), 0, ""),
        (measured(-12.0), measured(-48.0), 0, ""),
        (measured(12.0, 0.0), measured(48.0, 0.0), 0, ""),
        (measured("softmax"), measured("sigmoid"), 0, ""),
        (finding(evidence={"ratio": 12.0}), finding(evidence={"ratio": 48.0}), 0, ""),
        (finding(evidence={"a": 1.0, "ratio": 12.0, "threshold": 3}), measured(99.0), 0, ""),
        (measured(12.0), finding(evidence={"norm": 99.0, "threshold": 10.0}), 0, ""),
        (measured(12.0, count=3), measured(12.0, count=99), 0, ""),
        (finding(count=3), finding(count=40), 1, "x3 -> x40"),
        (finding(count=40), finding(count=3), -1, "x40 -> x3"),
        (finding(count=3), finding(count=6), 0, ""),
    ],
)
def test_a_pair_is_judged(before: Finding, after: Finding, way: int, why: str) -> None:
    diff = compare_findings([before], [after])
    assert [(change.way, change.why) for change in diff.both] == [(way, why)]
    assert diff.is_worse(INFO) is (way == 1)


@pytest.mark.parametrize("least", Severity)
@pytest.mark.parametrize("now", Severity)
def test_what_is_worse_counts_from_a_severity_on(least: Severity, now: Severity) -> None:
    assert compare_findings([], [finding(severity=now)]).is_worse(least) is (now >= least)
    worse = compare_findings([finding(severity=INFO)], [finding(severity=now)])
    assert worse.is_worse(least) is (now > INFO and now >= least)
    assert not compare_findings([finding(severity=now)], []).is_worse(least)


def test_a_longer_run_sees_more_of_the_same() -> None:
    short, long = run(finding(count=10), losses=[1.0] * 10), run(finding(count=40), losses=[1.0] * 40)
    assert compare_runs(short, long).changes(0)
    (change,) = compare_runs(short, run(finding(count=90), losses=[1.0] * 40)).changes(1)
    assert change.why == "x10 -> x90, in 4 times the steps"
    assert compare_runs(run(finding(count=10)), run(finding(count=40))).changes(1)  # nobody recorded the steps


def test_what_is_seen_once_is_no_more_often_in_a_shorter_run() -> None:
    long, short = run(finding(), losses=[1.0] * 40), run(finding(), losses=[1.0] * 4)
    assert compare_runs(long, short).changes(0)
    assert compare_runs(short, long).changes(0)


def test_the_worst_comes_first() -> None:
    found = [finding("LT601", INFO), finding("LT701", ERROR), finding("LT604"), finding("LT602")]
    assert [one.code for one in compare_findings([], found).new] == ["LT701", "LT602", "LT604", "LT601"]


places = st.builds(
    at,
    st.sampled_from([None, "a.py:1", "a.py:2", "b.py:1"]),
    st.sampled_from(["", "net", "head"]),
    code=st.sampled_from(["LT601", "LT604"]),
    severity=st.sampled_from(Severity),
)
distinct = st.lists(places, max_size=6, unique_by=lambda finding: finding.key)


@given(distinct, distinct)
def test_every_finding_is_told_once(before: list[Finding], after: list[Finding]) -> None:
    diff = compare_findings(before, after)
    left = [*diff.gone, *(change.before for change in diff.both)]
    right = [*diff.new, *(change.after for change in diff.both)]
    assert sorted(left, key=lambda f: f.key) == sorted(before, key=lambda f: f.key)
    assert sorted(right, key=lambda f: f.key) == sorted(after, key=lambda f: f.key)
    assert all(change.before.code == change.after.code for change in diff.both)
    json.dumps(diff.to_dict(), allow_nan=False)


@given(distinct)
def test_a_run_is_no_worse_than_itself(found: list[Finding]) -> None:
    diff = compare_findings(found, found[::-1])
    assert (diff.new, diff.gone) == ([], [])
    assert all(change.before is change.after and change.way == 0 for change in diff.both)


def test_losses_end_and_are_best_somewhere() -> None:
    ends = loss_ends(run(losses=[1.0] * 20 + [0.5] * 20 + [0.1] * 10 + [0.7] * 50))["training loss"]
    assert (ends.final, ends.best, ends.step) == (pytest.approx(0.7), pytest.approx(0.1), 40)


def test_blocks_count_by_their_steps() -> None:
    blocks = [Block(0, 98, 0, count=99, loss=1.0), Block(99, 99, 0, count=1, loss=5.0)]
    ends = loss_ends(Run(Path("run"), {}, blocks=blocks))["training loss"]
    assert (ends.final, ends.best, ends.step) == (5.0, 1.0, 0)


@pytest.mark.parametrize("last", [math.nan, math.inf])
def test_a_loss_that_is_no_number_at_the_end_is_told(last: float) -> None:
    ends = loss_ends(run(losses=[1.0] * 30 + [last] * 10))["training loss"]
    assert str(ends.final) == str(last)
    assert (ends.best, ends.step) == (1.0, 0)
    nothing = loss_ends(run(losses=[last] * 4))["training loss"]
    assert math.isnan(nothing.best)
    assert nothing.step is None


def test_losses_are_compared_where_both_have_them() -> None:
    validated = {"validation": [Sample(9, {"val_loss": 0.5, "val_acc": 0.9}), Sample(19, {"val_loss": 0.7})]}
    plain = run(losses=[1.0, 0.5])
    assert compare_runs(plain, run(losses=[1.0, 0.2], samples=validated)).losses.keys() == {"training loss"}
    losses = compare_runs(run(samples=validated), run(samples=validated)).losses
    assert [(name, ends.final, ends.best, ends.step) for name, (_, ends) in losses.items()] == [
        ("val_loss", 0.7, 0.5, 9)
    ]
    assert compare_runs(run(), run()).losses == {}


def test_what_the_runs_differ_in_is_told() -> None:
    one = {
        "status": "finished",
        "trainer": {"precision": "32-true", "devices": 1, "old": 1, "steps": 9},
        "model": {"class": "Net"},
    }
    other = {"status": "failed", "trainer": {"precision": "bf16-mixed", "devices": 1, "steps": 0}, "model": None}
    diff = compare_runs(Run(Path("a"), one), Run(Path("b"), other))
    assert diff.settings == {"trainer.precision": ("32-true", "bf16-mixed")}
    assert diff.to_dict()["settings"] == {"trainer.precision": {"before": "32-true", "after": "bf16-mixed"}}
    printed = shown(Run(Path("a"), one), Run(Path("b"), other))
    assert printed.endswith("\ntrainer.precision: 32-true -> bf16-mixed\n")


def shown(before: Run, after: Run, width: int = 100) -> str:
    console = Console(width=width, record=True, file=None, no_color=True)
    with console.capture() as capture:
        console.print(*diff_table(compare_runs(before, after), "runs/a", "runs/b", console), sep="\n")
    return capture.get()


BEFORE = run(
    at("train.py:12", "net.0", severity=WARNING),
    finding("LT901", INFO),
    finding("LT314", ERROR, where="[bold]head"),
    losses=[2.0] * 20 + [0.5] * 20,
)
AFTER = run(
    at("train.py:15", "net.0", severity=ERROR, message="0.4 > 0.1", remedy="lower the rate."),
    finding("LT901", INFO),
    finding("LT701", ERROR, where="batch[0]", message="the loss is nan"),
    losses=[2.0] * 20 + [math.nan] * 20,
)


@pytest.mark.parametrize("width", [50, 100, 200])
def test_the_table_tells_everything(width: int) -> None:
    words = " ".join(shown(BEFORE, AFTER, width).split())
    assert words.startswith("runs/a -> runs/b: 1 new, 1 worse, 1 gone, 1 same")
    for text in ("LT701", "the loss is nan", "warning -> error", "0.4 > 0.1", "LT314", "[bold]head", "train.py:15"):
        assert text in words
    assert "the same in both: LT901 name" in words
    assert "training loss 0.5 -> nan 0.5 -> 2 20 -> 0" in words
    assert max(map(len, shown(BEFORE, AFTER, width).splitlines())) <= min(width, 120)


def test_a_table_of_no_change_is_short() -> None:
    words = shown(BEFORE, dataclasses.replace(BEFORE)).split("\n\n")[0].split()
    assert words == ["runs/a", "->", "runs/b:", "3", "same"]
    assert shown(run(), run()).split("\n") == ["runs/a -> runs/b: no findings in either", ""]
