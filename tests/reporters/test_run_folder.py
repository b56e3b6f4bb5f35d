"""Reading back what a run left: whole, half, foreign, or killed in the middle of a line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lightning_tuning.findings import Diagnosis, Finding, Severity, Suspect
from lightning_tuning.reporters.json_lines import JsonLines
from lightning_tuning.reporters.run_folder import FINDINGS, MODEL, READINGS, RUN, NotARunError, read_run

FOUND = Finding("LT601", "exploding-gradient", Severity.INFO, "norm 310", where="net.0", step=3, last_step=3)
WORSE = Finding(
    "LT601", "exploding-gradient", Severity.WARNING, "norm 910", where="net.0", step=3, last_step=9, count=4
)
STEP = {"kind": "steps", "step": 0, "last_step": 0, "epoch": 0, "optimizer": 0, "count": 1, "loss": 2.5}


def add(folder: Path, name: str, *lines: dict) -> None:
    file = JsonLines(folder / name, f"lightning-tuning/{name.removesuffix('.jsonl')}")
    file.add(*lines)
    file.close()


def test_a_whole_run_comes_back(tmp_path: Path) -> None:
    diagnosis = Diagnosis("the run did not learn", (Suspect(WORSE, "it leaps"),))
    add(tmp_path, FINDINGS, {"event": "finding", "finding": FOUND.to_dict()})
    add(tmp_path, FINDINGS, {"event": "finding", "finding": WORSE.to_dict()})
    summary = {"event": "summary", "findings": [WORSE.to_dict()], "notes": ["cut"], "diagnosis": diagnosis.to_dict()}
    add(tmp_path, FINDINGS, summary)
    add(tmp_path, READINGS, STEP, {"kind": "lr", "step": 0, "epoch": 0, "values": {"SGD group 0": 0.1}})
    (tmp_path / RUN).write_text(json.dumps({"status": "finished"}))
    node = {"module": "net.0", "kind": "Linear", "operations": ["linear"], "shape": [2, 3], "parameters": 9}
    (tmp_path / MODEL).write_text(json.dumps({"nodes": [node, node], "edges": [[0, 1], [1, 7]], "blind": ["here"]}))
    run = read_run(tmp_path)
    assert run.problems == []
    assert (run.info["status"], run.findings, run.told, run.notes) == ("finished", [WORSE], [FOUND, WORSE], ["cut"])
    assert run.diagnosis == diagnosis
    assert [(block.step, block.loss, block.grad_norm) for block in run.blocks] == [(0, 2.5, None)]
    assert run.samples["lr"][0].values == {"SGD group 0": 0.1}
    assert run.model is not None
    assert run.model.edges == ((0, 1),)
    assert run.model.nodes[0].shape == (2, 3)


def test_the_last_of_a_finding_counts_where_there_is_no_summary(tmp_path: Path) -> None:
    add(tmp_path, FINDINGS, *({"event": "finding", "finding": one.to_dict()} for one in (FOUND, WORSE)))
    add(tmp_path, READINGS)
    run = read_run(tmp_path)
    assert run.findings == [WORSE]
    assert run.info["status"] == "running"


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_half_a_line_is_left_out_and_said(tmp_path: Path, cut: int) -> None:
    add(tmp_path, FINDINGS)
    add(tmp_path, READINGS, STEP, {**STEP, "step": 1, "last_step": 1})
    whole = (tmp_path / READINGS).read_bytes()
    (tmp_path / READINGS).write_bytes(whole[:-cut])
    run = read_run(tmp_path)
    assert [block.step for block in run.blocks] == ([0, 1] if cut == 1 else [0])
    assert any("cannot be read" in problem for problem in run.problems if READINGS in problem) is (cut > 1)
    add(tmp_path, READINGS, {**STEP, "step": 2, "last_step": 2})  # the run goes on behind the half line
    assert read_run(tmp_path).blocks[-1].step == 2


def test_numbers_that_json_lacks(tmp_path: Path) -> None:
    add(tmp_path, READINGS, {**STEP, "loss": math.nan, "loss_max": math.inf, "grad_norm": -math.inf})
    (tmp_path / READINGS).read_text().encode("ascii")
    (block,) = read_run(tmp_path).blocks
    assert math.isnan(block.loss)
    assert (block.loss_max, block.grad_norm) == (math.inf, -math.inf)


def test_what_a_resumed_run_did_twice_is_there_once(tmp_path: Path) -> None:
    steps = [{**STEP, "step": number, "last_step": number, "loss": 1.0} for number in range(6)]
    rates = [{"kind": "lr", "step": number, "values": {"g": 1.0}} for number in range(6)]
    add(tmp_path, READINGS, *steps, *rates)
    add(tmp_path, READINGS, {"kind": "resumed", "step": 4}, {**STEP, "step": 4, "last_step": 4, "loss": 2.0})
    run = read_run(tmp_path)
    assert [(block.step, block.loss) for block in run.blocks] == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]
    assert [sample.step for sample in run.samples["lr"]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "line",
    [
        "7",
        "null",
        "{}",
        '{"kind": "steps"}',
        '{"kind": "lr", "step": "x", "values": {}}',
        '{"kind": "lr", "step": 0, "values": 3}',
        "\x00",
        '{"kind": "steps", "step": 1e999, "last_step": 0, "epoch": 0, "count": 1}',
    ],
)
def test_lines_of_another_kind_are_left_out(tmp_path: Path, line: str) -> None:
    add(tmp_path, READINGS, STEP)
    with (tmp_path / READINGS).open("a") as file:
        file.write(line + "\n")
    run = read_run(tmp_path)
    assert len(run.blocks) == 1
    assert sum(READINGS in problem for problem in run.problems) == 1


def test_newer_and_foreign_files_are_said(tmp_path: Path) -> None:
    (tmp_path / READINGS).write_text('{"schema": "lightning-tuning/readings", "version": 99}\n' + json.dumps(STEP))
    (tmp_path / FINDINGS).write_text('{"schema": "somebody/else", "version": 1}\n{"event": "finding"}\n')
    run = read_run(tmp_path)
    assert len(run.blocks) == 1
    assert any("version 99" in problem for problem in run.problems)
    assert any("somebody/else" in problem for problem in run.problems)


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotARunError, match="no such folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(NotARunError, match=r"neither run\.json nor findings\.jsonl"):
        read_run(tmp_path)
