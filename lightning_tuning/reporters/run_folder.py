"""A run folder: what a run leaves behind for people and programs, and how it is read back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_tuning.findings import Diagnosis, Finding, Suspect
from lightning_tuning.reporters.json_lines import VERSION, as_number, read_lines
from lightning_tuning.reporters.run_record import Block, ModelMap, Node, Run, Sample

__all__ = ["FINDINGS", "MODEL", "READINGS", "RUN", "NotARunError", "read_run"]

RUN, FINDINGS, READINGS, MODEL = "run.json", "findings.jsonl", "readings.jsonl", "model.json"
"""The files of a run folder. ``run.json`` and ``model.json`` are written whole; the others grow line by line."""


class NotARunError(ValueError):
    """A folder holds no run that could be read."""


def read_run(folder: str | Path) -> Run:
    """Read a run folder, of a run that is over, still going on, or was killed.

    Half lines and unknown kinds are left out, and said in ``problems``; of a run that was resumed the steps that it
    made twice are there once.

    Raises:
        NotARunError: if ``folder`` is none, or holds neither findings nor readings.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotARunError(f"`{folder}` is no folder of a run: there is no such folder.")
    if not any((folder / name).is_file() for name in (RUN, FINDINGS, READINGS)):
        raise NotARunError(f"`{folder}` is no folder of a run: it has neither {RUN} nor {FINDINGS} nor {READINGS}.")
    problems: list[str] = []
    info = _object(folder / RUN, problems)
    told, folded, notes, diagnosis = _read_findings(folder, problems)
    blocks, samples = _read_readings(folder, problems)
    findings = sorted(folded.values(), key=lambda f: (-f.severity, f.code, f.step or 0, f.where))
    model = _model(_object(folder / MODEL, problems), problems) if (folder / MODEL).is_file() else None
    return Run(
        folder, {"status": "running", **info}, findings, told, notes, diagnosis, blocks, samples, model, problems
    )


def _object(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read: {error}.")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path.name} holds no object.")
        return {}
    if isinstance(content.get("version"), int) and content["version"] > VERSION:
        problems.append(f"{path.name} is of version {content['version']}; read as version {VERSION}.")
    return content


def _read_findings(
    folder: Path, problems: list[str]
) -> tuple[list[Finding], dict[Any, Finding], list[str], Diagnosis | None]:
    told: list[Finding] = []
    folded: dict[Any, Finding] = {}
    notes: list[str] = []
    diagnosis = None
    broken = 0
    for line in read_lines(folder / FINDINGS, "lightning-tuning/findings", problems):
        try:
            if line["event"] == "finding":
                finding = Finding.from_dict(line["finding"])
                folded[finding.key] = finding
                told.append(finding)
            elif line["event"] == "summary":
                folded = {found.key: found for found in map(Finding.from_dict, line["findings"])}
                notes = [str(note) for note in line["notes"]]
                diagnosis = _diagnosis(line.get("diagnosis"))
        except (KeyError, TypeError, ValueError):
            broken += 1
    if broken:
        problems.append(f"{broken} of the lines of {FINDINGS} are not of the schema, and left out.")
    return told, folded, notes, diagnosis


def _diagnosis(content: Mapping[str, Any] | None) -> Diagnosis | None:
    if content is None:
        return None
    suspects = tuple(Suspect(Finding.from_dict(suspect), str(suspect["why"])) for suspect in content["suspects"])
    return Diagnosis(str(content["outcome"]), suspects)


_WHOLE = ("step", "last_step", "epoch", "count")


def _read_readings(folder: Path, problems: list[str]) -> tuple[list[Block], dict[str, list[Sample]]]:
    blocks: list[Block] = []
    samples: dict[str, list[Sample]] = {}
    broken = 0
    for line in read_lines(folder / READINGS, "lightning-tuning/readings", problems):
        try:
            kind = line["kind"]
            if kind == "resumed":
                blocks = [block for block in blocks if block.step < line["step"]]
                samples = {name: [one for one in some if one.step < line["step"]] for name, some in samples.items()}
            elif kind == "steps":
                fields = {field.name: as_number(line.get(field.name)) for field in dataclasses.fields(Block)}
                whole = {name: int(line[name]) for name in _WHOLE}
                index = None if line.get("optimizer") is None else int(line["optimizer"])
                blocks.append(Block(**{**fields, **whole, "optimizer": index}))  # type: ignore[arg-type]
            else:
                numbers = {str(name): as_number(value) for name, value in line["values"].items()}
                values = {name: math.nan if value is None else value for name, value in numbers.items()}
                epoch = None if line.get("epoch") is None else int(line["epoch"])
                sample = Sample(int(line["step"]), values, epoch, as_number(line.get("seconds")))
                samples.setdefault(str(kind), []).append(sample)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            broken += 1
    if broken:
        problems.append(f"{broken} of the lines of {READINGS} are not of the schema, and left out.")
    return blocks, samples


def _model(content: Mapping[str, Any], problems: list[str]) -> ModelMap | None:
    try:
        nodes = tuple(
            Node(
                str(node["module"]),
                str(node["kind"]),
                tuple(str(name) for name in node["operations"]),
                tuple(int(size) for size in node["shape"]),
                int(node["parameters"]),
                node.get("source_line"),
            )
            for node in content["nodes"]
        )
        edges = tuple((int(start), int(end)) for start, end in content["edges"])
        blind = tuple(str(sentence) for sentence in content.get("blind", ()))
    except (KeyError, TypeError, ValueError):
        problems.append(f"{MODEL} is not of the schema.")
        return None
    return ModelMap(nodes, tuple((a, b) for a, b in edges if max(a, b) < len(nodes) and min(a, b) >= 0), blind)
