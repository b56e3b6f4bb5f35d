"""The code on the pages of ``docs/`` runs, and the commands that they name exist."""

from __future__ import annotations

import contextlib
import io
import re

import pytest

from lightning_tuning import CATALOGUE
from lightning_tuning.cli import _parser
from tests.docs.conftest import ROOT

PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
IN_PROSE = {"getting-started.md", "symptoms.md", "how-it-works.md", "cost.md"}  # test_prose.py does what they say
WITH_PYTHON = [name for name, text in PAGES.items() if BLOCK.search(text) and name not in IN_PROSE]
COMMAND = re.compile(r"lightning-tuning ([a-z][\w-]*)((?: [\w:.=/-]+)*)")


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_blocks_run(name: str) -> None:
    """In their order, with the names of those before; a comment behind a ``print`` is what it prints."""
    names = {"__name__": "page"}
    for code in BLOCK.findall(PAGES[name]):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, name, "exec"), names)
        assert printed.getvalue().splitlines() == re.findall(r"^print\(.*\)  # (.*)$", code, flags=re.MULTILINE)


def test_commands_exist() -> None:
    (commands,) = [action for action in _parser()._actions if action.dest == "command"]
    named = [(page, *found) for page, text in PAGES.items() for found in COMMAND.findall(text)]
    assert named
    for page, command, arguments in named:
        assert command in commands.choices, f"{page} names `lightning-tuning {command}`"
        for code in re.findall(r"\bLT\d{3}\b", arguments):
            assert code in CATALOGUE, f"{page} names {code}"


def test_codes_named_are_rules() -> None:
    assert all(code in CATALOGUE for text in PAGES.values() for code in re.findall(r"\bLT\d{3}\b", text))
