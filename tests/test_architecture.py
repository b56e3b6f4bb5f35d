"""The import rule of the house, read off the source, so that no import can hide in a function: imports point down."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lightning_tuning"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 250  # lines; past 150 ask what is two things in a file

MEASURED = {"findings", "functional", "trace", "measure"}
KNOWN = MEASURED | {"rules", "runtime"}
BELOW = {  # room: the rooms it may import from, besides itself
    "findings": set(),
    "functional": set(),
    "reporters": {"findings"},
    "trace": {"findings", "functional"},
    "measure": {"findings", "functional"},
    "rules": MEASURED,
    "runtime": MEASURED | {"reporters"},
    "checks": KNOWN,
    "monitors": KNOWN,
    "guards": KNOWN,
    "treatments": KNOWN,
    "mixins": KNOWN,
    "recording": KNOWN | {"reporters"},
}
EVERYTHING = {*BELOW, "suite", "cli", "plugin"}
BELOW |= {
    "suite": EVERYTHING - {"cli", "plugin"},
    "plugin": EVERYTHING - {"cli"},
    "cli": EVERYTHING,
    "__init__": EVERYTHING,
}

LIGHTNING = {"lightning", "lightning_fabric", "pytorch_lightning"}
FORBIDDEN = {  # what a room leaves to others outside the package
    "findings": {"torch", "torchmetrics", *LIGHTNING},
    "reporters": {"torch", "torchmetrics", *LIGHTNING},
    "functional": {"torchmetrics", *LIGHTNING},
    "rules": LIGHTNING,  # a verdict never sees a Trainer
}


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(source: str) -> Iterator[str]:
    """Every absolute dotted name that ``source`` imports, anywhere in it, ``TYPE_CHECKING`` or not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offences(here: str, source: str) -> list[str]:
    """The imports in ``source`` that a file of the room ``here`` may not have."""
    found = []
    for name in imported(source):
        top, *rest = name.split(".")
        if top == "lightning_tuning":
            # `from lightning_tuning import Finding` would go through the roof, whatever it is that comes back.
            there = rest[0] if rest and rest[0] in BELOW else "__init__"
            allowed = there == here or there in BELOW[here] or here == "cli"
        else:
            allowed = top not in FORBIDDEN.get(here, ())
            allowed &= top != "pytorch_lightning"  # the other package of the same code, with classes of its own
        if not allowed:
            found.append(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    assert room(path) in BELOW, f"{room(path)} is no room of the house"
    assert offences(room(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize(
    ("here", "source"),
    [
        ("findings", "import torch"),
        ("findings", "def f():\n    from lightning.pytorch import Trainer"),
        ("reporters", "from lightning_tuning.runtime import Desk"),
        ("functional", "import lightning.pytorch as pl"),
        ("rules", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lightning.pytorch import Trainer"),
        ("rules", "from lightning_tuning.runtime import Desk"),
        ("measure", "import lightning_tuning.rules.exploding_gradient"),
        ("checks", "from lightning_tuning.guards import NanLossGuard"),
        ("checks", "from lightning_tuning import guards"),
        ("guards", "from lightning_tuning.suite import TuningSuite"),
        ("treatments", "from lightning_tuning import TuningSuite"),
        ("mixins", "from lightning_tuning.treatments.plateau_lr import PlateauLR"),
        ("suite", "import lightning_tuning.cli"),
        ("monitors", "from pytorch_lightning import Callback"),
    ],
)
def test_an_offence_is_seen(here: str, source: str) -> None:
    assert len(offences(here, source)) == 1


@pytest.mark.parametrize(
    ("here", "source"),
    [
        ("findings", "import json"),
        ("reporters", "from rich.console import Console\nfrom lightning_tuning.findings import Finding"),
        ("functional", "import torch\nfrom lightning_tuning.functional.norms import global_norm"),
        ("rules", "import torch\nfrom lightning_tuning.trace import Graph"),
        ("checks", "import lightning.pytorch as pl\nfrom lightning_tuning.runtime import TuningCallback"),
        ("suite", "from lightning_tuning.guards import NanLossGuard"),
        ("cli", "import lightning_tuning.rules\nfrom lightning_tuning import __version__"),
    ],
)
def test_what_points_down_is_allowed(here: str, source: str) -> None:
    assert offences(here, source) == []


def test_relative_imports_are_refused() -> None:
    with pytest.raises(AssertionError, match="relative"):
        list(imported("from . import graph"))
