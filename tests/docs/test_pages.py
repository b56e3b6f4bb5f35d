"""The commands and rules that the pages of ``docs/`` name exist; what their code does is seen in ``test_prose.py``."""

from __future__ import annotations

import re

from lightning_tuning import CATALOGUE
from lightning_tuning.cli import _parser
from tests.docs.conftest import ROOT

PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
COMMAND = re.compile(r"lightning-tuning ([a-z][\w-]*)((?: [\w:.=/-]+)*)")


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
