"""The finding that each sick run gives, written down in ``recorded.json`` for the documentation to show.

``python -m tests.cases`` writes it; ``tests/contracts/test_cases.py`` holds it against the runs that it makes anyway.
"""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path
from typing import Any

from lightning_tuning import Finding
from tests.cases.case import Case

FILE = Path(__file__).parent / "recorded.json"
ROOT = Path(__file__).parents[2]

CHAOTIC = {
    "LT602": "the step at which tanh units are saturated for good, and the gradient behind them",
    "LT509": "the loss after the net was destroyed: 4.9, 2e+05 or 1e+06, by the vector instructions of the processor",
}
"""Codes whose numbers are not compared, each with the reason."""

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_NOTHING = 1e-5  # 0 on one machine, and what rounding leaves of it on another


def as_recorded(finding: Finding) -> dict[str, Any]:
    """``finding`` as it first was, without what is of this machine: its folders, and how often it was repeated."""
    plain = finding.to_dict()
    kept = {name: plain[name] for name in plain if name not in ("last_step", "count", "rank", "evidence")}
    here = {f"{ROOT}/": "", f"{Path.cwd()}/": ""}
    for folder, shown in here.items():
        kept = {name: text.replace(folder, shown) if isinstance(text, str) else text for name, text in kept.items()}
    return kept


@functools.cache
def recorded() -> dict[str, dict[str, Any]]:
    """What was written down, by the names of the cases."""
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def differences(case: Case, finding: Finding) -> list[str]:
    """What is otherwise in ``finding`` than it was written down; every word counts.

    Numbers in its texts may be up to twice what they were: sums are taken in the order that suits the processor, and
    after some hundred steps a norm of 5.4 is one of 5.1 elsewhere.
    """
    known, now = recorded().get(str(case), {}), as_recorded(finding)
    return [
        f"{name}: written down is {known.get(name)!r}, found was {now[name]!r}; `python -m tests.cases` writes it anew"
        for name in now
        if not _alike(known.get(name), now[name], are_compared=case.code not in CHAOTIC)
    ]


def _alike(known: Any, now: Any, *, are_compared: bool) -> bool:
    if not (isinstance(known, str | int) and isinstance(now, str | int)):
        return bool(known == now)
    if _NUMBER.sub("#", str(known)) != _NUMBER.sub("#", str(now)):
        return False
    pairs = zip(_NUMBER.findall(str(known)), _NUMBER.findall(str(now)), strict=True)
    return not are_compared or all(_close(float(one), float(other)) for one, other in pairs)


def _close(one: float, other: float) -> bool:
    if math.isclose(one, other, abs_tol=_NOTHING):
        return True
    return one * other > 0 and 0.5 <= one / other <= 2.0
