"""The README's code runs, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback

from lightning_tuning import CATALOGUE, TuningSuite

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]


def test_every_block_is_of_a_known_kind() -> None:
    assert {language for language, _ in BLOCKS} == {"text", "sh", "python", "toml", "yaml"}
    assert len(PYTHON) == 5


@pytest.mark.parametrize("code", PYTHON)
def test_python_blocks_run(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "toml"])
def test_toml_blocks_are_settings(text: str) -> None:
    Path("pyproject.toml").write_text(text, encoding="utf-8")
    suite = TuningSuite()
    assert suite._settings["on_finding"] == "raise"
    assert suite._settings["per_path_ignores"] == {"legacy/*.py": ["LT3"]}


@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "yaml"])
def test_yaml_blocks_make_callbacks(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of a name that LightningCLI itself calls
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--trainer.callbacks", type=list[Callback])
    made = parser.instantiate_classes(parser.parse_string(text)).trainer.callbacks
    assert [f"lightning_tuning.{type(callback).__name__}" for callback in made] == re.findall(
        r"class_path: (\S+)", text
    )


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^|`)make (\w+)", README, flags=re.MULTILINE))
    assert {"demo", "test", "bench"} <= targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_links_lead_somewhere() -> None:
    assert all((ROOT / target).exists() for target in re.findall(r"\]\((?!http)([^)]+)\)", README))


def test_codes_named_are_rules() -> None:
    assert all(code in CATALOGUE for code in re.findall(r"\bLT\d{3}\b", README))
