"""What the terminal reporter says, and what it leaves out; beside progress bars: ``test_beside.py``."""

from __future__ import annotations

import dataclasses
import io
import pickle
import re
from collections.abc import Sequence
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from lightning_tuning.findings import Diagnosis, Finding, Journal, Severity, Suspect
from lightning_tuning.reporters import TerminalReporter

EXPLODING = Finding(
    "LT601",
    "exploding-gradient",
    Severity.WARNING,
    "norm 310.0 is 258 times the running median 1.2",
    where="net.0",
    source_line="mnist.py:41",
    remedy="Trainer(gradient_clip_val=1.9)",
    step=812,
)
NAN = Finding("LT701", "non-finite-loss", Severity.ERROR, "the loss is nan", step=120, last_step=122, count=3)
INFOS = [Finding(f"LT99{i}", f"advice-{i}", Severity.INFO, "it could be better", where=f"net.{i}") for i in range(5)]


def paper(width: int = 80, **kwargs: Any) -> Console:
    return Console(file=io.StringIO(), width=width, **kwargs)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def closed(findings: Sequence[Finding], notes: Sequence[str] = (), width: int = 80, **kwargs: Any) -> str:
    console = paper(width)
    TerminalReporter(console, **kwargs).close(findings, notes)
    return text(console)


def test_finding_is_told_in_whole_lines() -> None:
    console = paper()
    assert TerminalReporter(console).finding(EXPLODING) is True
    assert text(console).splitlines() == [
        "warning LT601 exploding-gradient at net.0 (mnist.py:41), step 812",
        "  norm 310.0 is 258 times the running median 1.2",
        "  remedy: Trainer(gradient_clip_val=1.9)",
        "  more: lightning-tuning explain LT601",
        "",
    ]


def test_finding_without_place_step_or_remedy() -> None:
    console = paper()
    TerminalReporter(console).finding(Finding("LT701", "non-finite-loss", Severity.ERROR, "the loss is nan"))
    assert text(console).splitlines()[:2] == ["error LT701 non-finite-loss", "  the loss is nan"]
    assert "remedy" not in text(console)


def test_repeat_is_not_told_again_but_escalation_is() -> None:
    console = paper()
    reporter = TerminalReporter(console)
    assert reporter.finding(EXPLODING)
    assert reporter.finding(dataclasses.replace(EXPLODING, count=2))
    assert text(console).count("LT601 exploding-gradient") == 1
    assert reporter.finding(dataclasses.replace(EXPLODING, severity=Severity.ERROR))
    assert text(console).count("LT601 exploding-gradient") == 2
    assert reporter.finding(EXPLODING)
    assert text(console).count("LT601 exploding-gradient") == 2


def test_where_to_read_more_is_said_once_for_each_code() -> None:
    console = paper()
    reporter = TerminalReporter(console)
    for place in ("net.0", "net.2"):
        reporter.finding(Finding("LT601", "exploding-gradient", Severity.WARNING, "norm 310.0", where=place))
    assert "at net.2" in text(console)
    assert text(console).count("more:") == 1


def test_next_run_starts_anew() -> None:
    console = paper()
    reporter = TerminalReporter(console, summary=False)
    for _ in range(2):
        reporter.finding(EXPLODING)
        reporter.close([EXPLODING], [])
    assert text(console).count("LT601 exploding-gradient") == 2


@pytest.mark.parametrize(
    ("threshold", "shown"), [("info", 3), ("warning", 2), (Severity.WARNING, 2), ("error", 1), (Severity.ERROR, 1)]
)
def test_min_severity_decides_what_is_told(threshold: str | Severity, shown: int) -> None:
    console = paper()
    reporter = TerminalReporter(console, min_severity=threshold)
    assert sum(reporter.finding(finding) for finding in (NAN, EXPLODING, INFOS[0])) == shown
    assert text(console).count("more:") == shown


@pytest.mark.parametrize("wrong", ["fatal", "", None, 2, "WARNING "])
def test_wrong_min_severity_is_refused(wrong: Any) -> None:
    message = f"`min_severity` must be one of 'info', 'warning', 'error', got {wrong!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        TerminalReporter(min_severity=wrong)


def test_healthy_run_gets_one_line() -> None:
    assert closed([]) == "lightning-tuning: no findings\n"


def test_infos_are_folded_into_a_few_lines() -> None:
    assert closed(INFOS).splitlines() == [
        "lightning-tuning: no warnings, 5 infos",
        "  info LT990 advice-0 at net.0: it could be better",
        "  info LT991 advice-1 at net.1: it could be better",
        "  info LT992 advice-2 at net.2: it could be better",
        "  and 2 more infos: lightning-tuning explain LT993 LT994",
    ]


def test_an_info_is_told_to_its_end() -> None:
    long = dataclasses.replace(INFOS[0], message="a value " + "and another " * 9 + "against 3")
    lines = closed([long], width=60).splitlines()
    assert lines[-2].endswith("against 3")
    assert lines[-1] == "  more: lightning-tuning explain LT990"
    assert max(map(len, lines)) <= 60


def test_a_line_is_place_enough() -> None:
    table = closed([dataclasses.replace(NAN, where="", source_line="mnist.py:41")])
    assert "mnist.py:41" in table
    assert "the run" not in table


def test_summary_can_be_left_out() -> None:
    assert closed([NAN], ["skipped a batch"], summary=False) == ""


@pytest.mark.parametrize("width", [80, 120])
def test_summary_is_worst_first_and_complete(width: int) -> None:
    lines = closed([*INFOS[:1], EXPLODING, NAN], ["skipped 3 batches"], width=width)
    assert lines.startswith("lightning-tuning: 1 error, 1 warning, 1 info\n")
    order = ["LT701", "LT601", "LT990", "skipped 3 batches", "lightning-tuning explain LT701 LT601"]
    assert sorted(order, key=lines.index) == order
    for part in ("the run", "net.0", "mnist.py:41", "x3, steps", "120-122", "step 812", "remedy: Trainer(gradient"):
        assert part in lines


def test_notes_are_told_without_findings_too() -> None:
    assert closed([], ["initialized 3 layers"]).splitlines() == [
        "lightning-tuning: no findings",
        "what was done:",
        "- initialized 3 layers",
    ]


@pytest.mark.parametrize("width", [1, 20, 40, 79, 80, 100, 120, 300])
def test_lines_fit_the_width(width: int) -> None:
    console = paper(width)
    reporter = TerminalReporter(console)
    long = Finding(
        "LT601", "x" * 30, Severity.WARNING, "word " * 60, "encoder." * 12 + "norm", "train.py:1", {}, "do " * 90
    )
    reporter.finding(long)
    reporter.close([long, *INFOS], ["note " * 60])
    widths = [cell_len(line) for line in text(console).splitlines()]
    assert max(widths) <= min(width, 120)
    assert all(line == line.rstrip() for line in text(console).splitlines())


def test_long_module_path_is_broken_behind_a_dot() -> None:
    deep = Finding("LT601", "exploding-gradient", Severity.WARNING, "norm", where="encoder.blocks.3.attention.norm")
    assert "encoder.blocks.3." in [line[10:].split(" ")[0] for line in closed([deep]).splitlines()]


def test_markup_and_emoji_codes_are_literal() -> None:
    console = paper()
    reporter = TerminalReporter(console)
    odd = Finding("LT301", "odd", Severity.WARNING, "[red]p=0.5[/] :boom: [/]", where="[bold]x", remedy="[link=a]b")
    reporter.finding(odd)
    reporter.close([odd], ["[bold]done[/bold] :boom:"])
    for literal in ("[red]p=0.5[/] :boom: [/]", "at [bold]x", "remedy: [link=a]b", "- [bold]done[/bold] :boom:"):
        assert literal in text(console)


def test_names_beyond_ascii_are_shown_or_escaped() -> None:
    finding = Finding("LT301", "odd", Severity.WARNING, "größer", where="Модуль")
    assert "at Модуль\n  größer" in _told(finding, "utf-8")
    assert "at \\u041c\\u043e\\u0434\\u0443\\u043b\\u044c\n  gr\\xf6\\xdfer" in _told(finding, "ascii")


def _told(finding: Finding, encoding: str) -> str:
    buffer = io.BytesIO()
    reporter = TerminalReporter(Console(file=io.TextIOWrapper(buffer, encoding=encoding, newline="\n")))
    reporter.finding(finding)
    reporter.close([finding], [])
    return buffer.getvalue().decode(encoding)


def test_plain_text_unless_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalReporter().finding(EXPLODING)
    assert "\x1b" not in capsys.readouterr().out
    console = paper(force_terminal=True, color_system="standard", no_color=False)
    TerminalReporter(console).finding(EXPLODING)
    assert "\x1b[1;33mwarning\x1b[0m" in text(console)


def test_reporter_can_be_sent_to_a_spawned_process(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter(paper(), min_severity="error", summary=False)
    arrived = pickle.loads(pickle.dumps(reporter))
    assert (arrived.min_severity, arrived.summary) == (Severity.ERROR, False)
    assert arrived.finding(NAN)
    assert "LT701" in capsys.readouterr().out


def test_journal_mutes_the_warning_that_was_shown(capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal()
    journal.reporters.append(TerminalReporter())
    with pytest.warns(UserWarning, match="LT998"):  # given all the same, for whoever listens
        journal.report(Finding("LT998", "odd", Severity.WARNING, "odd"))
    journal.close()
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("odd") == 4  # name and message, as it came and in the table


def test_the_summary_says_how_the_run_went_wrong_and_the_likely_causes() -> None:
    console = paper(100)
    reporter = TerminalReporter(console)
    suspects = tuple(Suspect(finding, "a reason") for finding in (NAN, EXPLODING, *INFOS))
    reporter.diagnosis(Diagnosis("the run diverged (in 400 batches)", suspects))
    reporter.close([EXPLODING], ["nothing"])
    lines = [line.strip() for line in text(console).splitlines()]
    at = lines.index("the run diverged (in 400 batches); likely causes, the likeliest first:")
    assert lines[at + 1] == "1. LT701 non-finite-loss: the loss is nan (a reason)"
    assert lines[at + 2].startswith("2. LT601 exploding-gradient at net.0")
    assert "6. " not in text(console)
    assert lines.index("what was done:") > at
    reporter.close([EXPLODING], [])
    assert text(console).count("likely causes") == 1


def test_a_run_that_nothing_explains_is_said_to_be_so() -> None:
    console = paper(120)
    reporter = TerminalReporter(console)
    reporter.diagnosis(Diagnosis("the run did not learn (flat after 400 batches)"))
    reporter.close([], [])
    assert "no finding explains it" in text(console)
