"""``lightning-tuning report``: the page of a run folder, whatever became of the run, and without waiting for torch."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import Any

import pytest

from lightning_tuning.cli import main
from lightning_tuning.findings import Finding, Severity
from lightning_tuning.reporters.json_lines import JsonLines

ROOT = Path(__file__).parent.parent
FOUND = Finding("LT601", "exploding-gradient", Severity.WARNING, "norm 310", where="net.0", step=3, last_step=3)


@pytest.fixture
def run() -> Path:
    """A run that is over, with a finding and three steps."""
    folder = Path("runs/a")
    folder.mkdir(parents=True)
    findings = JsonLines(folder / "findings.jsonl", "lightning-tuning/findings")
    findings.add({"event": "finding", "finding": FOUND.to_dict()})
    findings.close()
    readings = JsonLines(folder / "readings.jsonl", "lightning-tuning/readings")
    step = {"kind": "steps", "epoch": 0, "optimizer": 0, "loss": 2.5}
    readings.add(*({**step, "step": number, "last_step": number, "count": 1} for number in range(3)))
    readings.close()
    say(folder, "finished")
    return folder


def say(folder: Path, status: str) -> None:
    content = {"schema": "lightning-tuning/run", "version": 1, "status": status}
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")


def test_the_report_lies_in_the_folder_of_the_run_and_waits_for_no_torch(run: Path) -> None:
    code = (
        "import sys; from lightning_tuning.cli import main; status = main(['report', 'runs/a']); "
        "assert not {'torch', 'lightning'} & set(sys.modules); sys.exit(status)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr) == ("runs/a/report.html: 1 finding, 3 steps\n", "")
    assert "norm 310" in (run / "report.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in run.iterdir()) == [
        "findings.jsonl", "readings.jsonl", "report.html", "run.json"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("running", "the run is not over: still going on, or killed"),
        ("interrupted", "the run is interrupted"),
        ("failed", "the run is broken off by an error"),
    ],
)
def test_a_run_that_is_not_finished_is_one_too(
    run: Path, status: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_tuning.cli.report.render_report", lambda run: f"<p>{run.info['status']}")
    say(run, status)
    assert main(["report", str(run), "--output", "new/page.html"]) == 0
    assert capsys.readouterr().out == f"new/page.html: 1 finding, 3 steps; {said}\n"
    assert Path("new/page.html").read_text(encoding="utf-8") == f"<p>{status}"


def test_what_could_not_be_read_is_said(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_tuning.cli.report.render_report", lambda run: "<p>")
    with (run / "readings.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "ste')
    (run / "run.json").write_text("{", encoding="utf-8")
    assert main(["report", str(run)]) == 0
    printed = capsys.readouterr()
    assert "3 steps; the run is not over" in printed.out
    assert "lightning-tuning: Left out of readings.jsonl, for they cannot be read: 1 lines." in printed.err
    assert "lightning-tuning: run.json cannot be read: " in printed.err


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("no/such", "`no/such` is no folder of a run: there is no such folder.\n"),
        (".", "`.` is no folder of a run: it has neither run.json nor findings.jsonl nor readings.jsonl.\n"),
        ("runs", "it has neither run.json nor findings.jsonl nor readings.jsonl. Runs lie in runs/a.\n"),
        ("runs/a/run.json", "`runs/a/run.json` is no folder of a run"),
    ],
)
@pytest.mark.usefixtures("run")
def test_where_no_run_lies(folder: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", folder]) == 2
    assert message in capsys.readouterr().err


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_tuning.cli.report.render_report", lambda run: "<p>")
    (run / "report.html").mkdir()
    assert main(["report", str(run)]) == 2
    assert "the report cannot be written to `runs/a/report.html`: " in capsys.readouterr().err
    assert list((run / "report.html").iterdir()) == []


def test_without_the_extra_it_is_named(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] == "altair":
            raise ModuleNotFoundError(f"No module named {name!r}", name="altair")
        return real(name, *arguments, **keywords)

    for module in [name for name in sys.modules if name.startswith("lightning_tuning.reporters.html.")]:
        if not module.endswith(".render"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["report", str(run)]) == 2
    assert 'pip install "lightning-tuning[report]"' in capsys.readouterr().err
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("opens", [True, False])
def test_open(run: Path, opens: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: asked.append(address) or opens)
    monkeypatch.setattr("lightning_tuning.cli.report.render_report", lambda run: "<p>")
    assert main(["report", str(run), "--open"]) == 0
    assert asked == [(run / "report.html").resolve().as_uri()]
    assert ("no browser was found" in capsys.readouterr().err) is not opens
