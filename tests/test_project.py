"""The files around the package agree with each other."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lightning_tuning import __version__

ROOT = Path(__file__).parent.parent
CONSTRAINTS = {
    canonicalize_name(requirement.name): requirement
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.startswith("#")
    for requirement in [Requirement(line)]
}


def closure(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> set[str]:
    """The names of everything that installing ``name[extras]`` brings into this environment."""
    if (name, extras) in seen:
        return set()
    seen.add((name, extras))
    names = {name}
    for line in importlib.metadata.requires(name) or []:
        needed = Requirement(line)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            names |= closure(canonicalize_name(needed.name), frozenset(needed.extras), seen)
    return names


def test_constraints_cover_everything_that_is_installed() -> None:
    needed = closure("lightning-tuning", frozenset({"demos", "test", "dev"}), set()) - {"lightning-tuning"}
    assert needed - set(CONSTRAINTS) == set()
    if sys.platform == "linux" and sys.version_info[:2] == (3, 11):  # where they were written down
        assert set(CONSTRAINTS) - needed == set()


@pytest.mark.parametrize("requirement", CONSTRAINTS.values(), ids=str)
def test_constraints_are_exact(requirement: Requirement) -> None:
    assert [specifier.operator for specifier in requirement.specifier] == ["=="]
    assert "+" not in str(requirement.specifier), "a local version would tie the project to one build"


def test_tested_versions_are_allowed_by_the_project() -> None:
    for line in importlib.metadata.requires("lightning-tuning") or []:
        needed = Requirement(line)
        if needed.name in CONSTRAINTS:
            (pin,) = CONSTRAINTS[needed.name].specifier
            assert needed.specifier.contains(pin.version), needed


def test_changelog_tells_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(__version__)}\]", changelog, re.MULTILINE)


def test_contributing_is_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) < 60


def test_continuous_integration_is_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "exec make test"


def test_types_are_shipped() -> None:
    assert (ROOT / "lightning_tuning" / "py.typed").exists()
