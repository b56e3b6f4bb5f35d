"""Findings as SARIF 2.1.0, the format that editors and code review read: each at its line of the user's code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lightning_tuning.findings import CATALOGUE, Finding, Rule, Severity

__all__ = ["BASE", "SCHEMA", "sarif"]

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
"""The identity of the schema; nothing is fetched from there."""

BASE = "SRCROOT"
"""What relative paths are relative to, by its name in ``originalUriBaseIds``."""

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_FINGERPRINT = "findingPlace/v1"
_Place = tuple[dict[str, str], int]


def sarif(
    findings: Iterable[Finding],
    root: str | Path,
    *,
    home: str | None = None,
    notes: Sequence[str] = (),
    version: str | None = None,
) -> dict[str, Any]:
    """``findings`` as a SARIF log of one run.

    Each is a *result* at its source line. One that has none, because it is about a module, an optimizer or the run as
    a whole, is a result too (a *notification*, 3.58, is for what befell the tool, as ``notes`` are): at ``home``, which
    its location says. Without a home it has its module path as a logical location, or no location at all, as 3.27.12
    allows; but services that show results in code (GitHub's code scanning) refuse the whole file then.

    ``partialFingerprints`` are of the code, the place and the file, never of the line, so that a finding stays the same
    one as lines are put in above it. How often it was seen is in ``properties`` (``occurrenceCount`` of 3.27.36 counts
    merged files).

    Args:
        findings: of a run or a check, any order. Rules that are not in the catalogue (a newer version wrote them) are
            told with what the finding itself knows.
        root: the folder that relative source lines are relative to: where the run was started. Given to readers as
            ``SRCROOT``. Lines of an installed package are relative to its ``site-packages`` instead.
        home: source line at which findings are shown that have none of their own: one of the model.
        notes: what guards and treatments did; as notifications.
        version: of this library, if it shall be told.

    Returns:
        Plain JSON types without NaN or infinity.

    Example:
        >>> from lightning_tuning.findings import Severity
        >>> found = Finding("LT999", "too-much", Severity.INFO, "9 > 3", where="net.0", source_line="train.py:12")
        >>> (result,) = sarif([found], "/work")["runs"][0]["results"]
        >>> result["ruleId"], result["level"], result["message"]["text"]
        ('LT999', 'note', '9 > 3')
        >>> result["locations"][0]["physicalLocation"]["artifactLocation"]
        {'uri': 'train.py', 'uriBaseId': 'SRCROOT'}

    Source: OASIS Standard, Static Analysis Results Interchange Format (SARIF) Version 2.1.0 Plus Errata 01.
    """
    root = Path(root).absolute()
    findings = list(findings)
    codes = {code: place for place, code in enumerate(sorted({finding.code for finding in findings}))}
    names = {finding.code: finding.name for finding in findings}
    driver: dict[str, Any] = {
        "name": "lightning-tuning",
        "rules": [_descriptor(code, names[code]) for code in codes],
    }
    if version is not None:
        driver["version"] = version
    invocation: dict[str, Any] = {"executionSuccessful": True}
    if notes:
        invocation["toolExecutionNotifications"] = [{"level": "note", "message": _message(note)} for note in notes]
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "invocations": [invocation],
                "originalUriBaseIds": {BASE: {"uri": (root / "_").as_uri()[:-1]}},
                "results": _results(findings, codes, root, _artifact(home, root)),
            }
        ],
    }


def _descriptor(code: str, name: str) -> dict[str, Any]:
    if code not in CATALOGUE:
        return {"id": code, "name": name}
    rule = CATALOGUE[code]
    return {
        "id": code,
        "name": rule.name,
        "shortDescription": {"text": rule.gist},
        "fullDescription": {"text": rule.why},
        "help": {"text": _help(rule, ""), "markdown": _help(rule, "**")},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"kind": rule.kind, "since": rule.since, "source": rule.source},
    }


def _help(rule: Rule, strong: str) -> str:
    parts = (("Remedy", rule.remedy), ("Source", rule.source), ("More", f"`lightning-tuning explain {rule.code}`"))
    return "\n\n".join(f"{strong}{label}:{strong} {text}" for label, text in parts)


def _results(findings: Sequence[Finding], codes: Mapping[str, int], root: Path, home: _Place) -> list[dict[str, Any]]:
    artifacts = [_artifact(finding.source_line, root) for finding in findings]
    prints = [_fingerprint(finding, artifact) for finding, (artifact, _) in zip(findings, artifacts, strict=True)]
    lines: dict[str, list[int]] = {}
    for fingerprint, (_, line) in zip(prints, artifacts, strict=True):
        lines.setdefault(fingerprint, []).append(line)
    return [
        {
            "ruleId": finding.code,
            "ruleIndex": codes[finding.code],
            "level": _LEVELS[finding.severity],
            "message": _message(finding.message, *([f"remedy: {finding.remedy}"] if finding.remedy else [])),
            "locations": _locations(finding.where, (artifact, line), home),
            # Several lines of one file are told apart by their order, which lines between them do not change.
            "partialFingerprints": {_FINGERPRINT: f"{fingerprint}:{sorted(lines[fingerprint]).index(line) + 1}"},
            "properties": {
                name: value
                for name, value in finding.to_dict().items()
                if name in ("count", "step", "last_step", "epoch", "rank", "evidence", "where") and value is not None
            },
        }
        for finding, fingerprint, (artifact, line) in zip(findings, prints, artifacts, strict=True)
    ]


def _message(*lines: str) -> dict[str, str]:
    """A brace would be a placeholder (3.11.5)."""
    return {"text": "\n".join(lines).replace("{", "{{").replace("}", "}}")}


def _fingerprint(finding: Finding, artifact: Mapping[str, str]) -> str:
    place = "\0".join((finding.code, finding.where, artifact.get("uri", "")))
    return hashlib.sha256(place.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _artifact(source_line: str | None, root: Path) -> _Place:
    """The file as an ``artifactLocation`` and the line, ``{}`` where there is no file (``<stdin>:1``)."""
    name, _, number = (source_line or "").rpartition(":")
    if not name or name.startswith("<") or not number.isdigit() or int(number) < 1:
        return {}, 0
    path = Path(name)
    if path.is_absolute() and not path.is_relative_to(root):
        return {"uri": path.as_uri()}, int(number)
    inside = path.relative_to(root) if path.is_absolute() else path
    return {"uri": quote(inside.as_posix()), "uriBaseId": BASE}, int(number)


def _locations(where: str, own: _Place, home: _Place) -> list[dict[str, Any]]:
    artifact, line = own if own[0] else home
    location: dict[str, Any] = {}
    if artifact:
        location["physicalLocation"] = {"artifactLocation": dict(artifact), "region": {"startLine": line}}
    if artifact and not own[0]:
        location["message"] = {"text": "it has no line of its own, and is shown at a line of the model"}
    if where:
        location["logicalLocations"] = [{"fullyQualifiedName": where}]
    return [location] if location else []
