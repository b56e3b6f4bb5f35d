"""``lightning-tuning diff`` and ``findings``: recorded runs on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_tuning.cli import main
from lightning_tuning.findings import Diagnosis, Finding, Severity, Suspect
from lightning_tuning.reporters.json_lines import JsonLines
from lightning_tuning.reporters.run_folder import FINDINGS, MODEL, READINGS, RUN

ROOT = Path(__file__).parent.parent

SOFTMAX = Finding(
    "LT314",
    "redundant-softmax",
    Severity.ERROR,
    "softmax goes into cross_entropy | twice",
    where="net.5",
    source_line="train.py:12",
    remedy="give the loss the raw output.",
    step=0,
)
RATE = Finding("LT408", "learning-rate-band", Severity.INFO, "lr=0.02 > 0.01", where="Adam group 0", step=0)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def record(name: str, *findings: Finding, losses: tuple[float, ...] = (), killed: bool = False) -> Path:
    """A run folder as a run leaves it; of one that was killed the last line is half a line, and no summary is there."""
    folder = Path(name)
    folder.mkdir()
    lines = JsonLines(folder / FINDINGS, "lightning-tuning/findings")
    lines.add(*({"event": "finding", "finding": finding.to_dict()} for finding in findings))
    if not killed:
        diagnosis = Diagnosis("the run did not learn", (Suspect(SOFTMAX, "its gradients vanish"),)).to_dict()
        found = [finding.to_dict() for finding in findings]
        lines.add({"event": "summary", "findings": found, "notes": ["it skipped 4 updates"], "diagnosis": diagnosis})
    lines.close()
    readings = JsonLines(folder / READINGS, "lightning-tuning/readings")
    one = {"kind": "steps", "epoch": 0, "optimizer": 0, "count": 1}
    readings.add(*({**one, "step": step, "last_step": step, "loss": loss} for step, loss in enumerate(losses)))
    readings.close()
    if killed:
        with (folder / READINGS).open("a", encoding="utf-8") as file:
            file.write('{"kind": "steps", "st')
    (folder / RUN).write_text(json.dumps({"status": "running" if killed else "finished"}), encoding="utf-8")
    return folder


def test_nothing_new_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    record("a", SOFTMAX, RATE, losses=(2.0, 1.0))
    record("b", RATE, losses=(2.0, 0.5))
    assert main(["diff", "a", "b"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("a (finished, 2 steps) -> b (finished, 2 steps): 1 gone, 1 same")
    assert "gone LT314 net.5 error redundant-softmax" in printed
    assert "training loss 1 -> 0.5" in printed


def test_something_new_exits_1_and_is_told_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    record("a", RATE)
    record("b", SOFTMAX, RATE)
    assert main(["diff", "a", "b"]) == 1
    assert "1 new, 1 same" in capsys.readouterr().out
    assert main(["diff", "a", "b", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["new"] == [SOFTMAX.to_dict()]
    assert report["same"] == [{"why": "", "before": RATE.to_dict(), "after": RATE.to_dict()}]
    assert (report["gone"], report["worse"], report["better"], report["losses"]) == ([], [], [], {})
    assert report["after"] == {"folder": "b", "status": "finished", "problems": []}


def test_an_info_is_told_and_judged_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    record("a")
    record("b", RATE)
    assert main(["diff", "a", "b"]) == 0
    assert "1 new" in capsys.readouterr().out
    assert main(["diff", "a", "b", "--severity", "info"]) == 1
    record("c", RATE, SOFTMAX)
    assert main(["diff", "b", "c", "--severity", "error"]) == 1


def test_a_killed_run_is_compared_as_far_as_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    record("a", RATE, losses=(2.0,) * 8)
    record("b", SOFTMAX, RATE, losses=(2.0, 3.0), killed=True)
    assert main(["diff", "a", "b"]) == 1
    captured = capsys.readouterr()
    assert "b (still running, or killed, 2 steps): 1 new, 1 same" in captured.out
    assert captured.err.startswith("lightning-tuning: b: ")
    assert "readings.jsonl" in captured.err


@pytest.mark.parametrize("command", [["diff", "a", "b"], ["diff", "b", "a"], ["findings", "b"]], ids=" ".join)
@pytest.mark.parametrize(
    ("holds", "said"),
    [
        (None, "`b` is no folder of a run: there is no such folder."),
        ("nothing.txt", "`b` is no folder of a run: it has neither run.json nor findings.jsonl nor readings.jsonl."),
        (RUN, "`b` has no findings.jsonl: what was found in this run is not known."),
    ],
)
def test_what_is_no_run_exits_2(
    command: list[str], holds: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record("a", RATE)
    if holds:
        Path("b").mkdir()
        Path("b", holds).write_text("{}", encoding="utf-8")
    assert main(command) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"lightning-tuning: {said}\n"


def test_findings_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    record("a", SOFTMAX, RATE)
    assert main(["findings", "a"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("a: finished lightning-tuning: 1 error, 1 info")
    for text in ("LT314", "train.py:12", "LT408", "the run did not learn", "it skipped 4 updates"):
        assert text in printed


def test_findings_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    record("a", RATE)
    assert main(["findings", "a", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["findings"] == [RATE.to_dict()]
    assert (report["status"], report["notes"], report["problems"]) == ("finished", ["it skipped 4 updates"], [])
    assert report["diagnosis"]["outcome"] == "the run did not learn"


def test_findings_as_sarif(capsys: pytest.CaptureFixture[str]) -> None:
    record("a", SOFTMAX)
    assert main(["findings", "a", "--format", "sarif", "--root", "/home/me/project"]) == 1
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["results"][0]["ruleId"] == "LT314"
    assert run["originalUriBaseIds"]["SRCROOT"]["uri"] == "file:///home/me/project/"
    assert run["tool"]["driver"]["rules"][0]["fullDescription"]["text"].startswith("A loss that takes logits")


def test_findings_without_a_line_are_shown_where_the_traced_step_begins(capsys: pytest.CaptureFixture[str]) -> None:
    node = {"module": "", "kind": "Net", "operations": [], "shape": [], "parameters": 0}
    nodes = [node, {**node, "module": "net.0", "source_line": "train.py:31"}]
    (record("a", RATE) / MODEL).write_text(json.dumps({"nodes": nodes, "edges": []}), encoding="utf-8")
    assert main(["findings", "a", "--format", "sarif"]) == 0
    (location,) = json.loads(capsys.readouterr().out)["runs"][0]["results"][0]["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "train.py"
    assert location["physicalLocation"]["region"] == {"startLine": 31}


def test_findings_as_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    record("a", SOFTMAX, RATE)
    assert main(["findings", "a", "--format", "markdown"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == (
        "| error | LT314 redundant-softmax | `net.5`, `train.py:12` | softmax goes into cross_entropy \\| twice | "
        "give the loss the raw output. |"
    )
    assert len(lines) == 4


def test_nothing_found(capsys: pytest.CaptureFixture[str]) -> None:
    record("a", killed=True)
    assert main(["findings", "a"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "a: still running, or killed\nlightning-tuning: no findings\n"


@pytest.mark.parametrize("arguments", [["diff", "{}", "{}"], ["findings", "{}", "--format", "sarif"]], ids=" ".join)
def test_neither_waits_for_torch(arguments: list[str]) -> None:
    folder = str(record("a", RATE).absolute())
    command = [argument.format(folder) for argument in arguments]
    script = (
        f"import sys; from lightning_tuning.cli import main; assert main({command}) == 0; "
        "print('loaded:', {'torch', 'lightning', 'lightning_fabric'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded: set()\n")
