"""What the pages of ``docs/`` show is so: code runs in its order and prints what they say, commands exist."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback

from lightning_tuning import CATALOGUE, Severity, TuningError, TuningSuite, TuningWarning
from lightning_tuning.cli import _parser, main
from lightning_tuning.findings.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
WRITTEN = ("getting-started", "symptoms", "how-it-works", "cost")
"""Pages that link to nothing that is generated when the site is built."""


class Block(NamedTuple):
    """A fenced block: its language, ``title="..."`` if it has one, its lines, and the line of the page it begins at."""

    language: str
    title: str
    text: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    for found in re.finditer(r'^```(\w+)(?: title="([^"\n]*)")?\n(.*?)^```$', page, flags=re.MULTILINE | re.DOTALL):
        yield Block(found[1], found[2] or "", found[3], page[: found.start()].count("\n") + 1)


@contextlib.contextmanager
def printing() -> Iterator[io.StringIO]:
    with contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
        warnings.simplefilter("ignore", TuningWarning)  # they go to stderr, which pages leave out
        yield printed


class Reader:
    """Somebody who does what a page says, block after block, in an empty folder."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "page"}
        self.file = Path("none.py")
        self.printed = ""

    def follow(self, block: Block) -> None:
        getattr(self, f"follow_{block.language}")(block)

    def follow_python(self, block: Block) -> None:
        if block.title.endswith(".py"):
            self.file = Path(block.title)
            self.file.write_text(block.text, encoding="utf-8")
        else:
            with printing() as printed:
                exec(compile(block.text, "page", "exec"), self.names)
            self.printed = printed.getvalue()
            if beside := re.findall(r"^print\(.*\)  # (.*)$", block.text, flags=re.MULTILINE):
                assert self.printed.splitlines() == beside

    def follow_diff(self, block: Block) -> None:
        text = self.file.read_text(encoding="utf-8")
        for hunk in block.text.split("@@\n"):
            lines = hunk.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if line[0] in " -")
            after = "".join(line[1:] for line in lines if line[0] in " +")
            assert text.count(before) == 1, f"to be changed in {self.file}: {before}"
            text = text.replace(before, after)
        self.file.write_text(text, encoding="utf-8")

    def follow_text(self, block: Block) -> None:
        first, _, shown = block.text.partition("\n")
        if first.startswith("$ "):
            self.run(first.removeprefix("$ "))
        else:
            shown = block.text
        said = "\n".join(line.rstrip() for line in self.printed.splitlines()).rstrip() + "\n"
        assert doctest.OutputChecker().check_output(shown, said, doctest.ELLIPSIS), (
            f"line {block.line} shows\n{shown}\nand this was printed:\n{said}"
        )

    def run(self, command: str) -> None:
        program, *arguments = shlex.split(command)
        with printing() as printed:
            if program == "lightning-tuning":
                assert main(arguments) == 0
            else:
                assert (program, arguments) == ("python", [str(self.file)])
                with contextlib.suppress(TuningError):
                    self.names = runpy.run_path(str(self.file), run_name="__main__")
        self.printed = printed.getvalue()

    def follow_toml(self, block: Block) -> None:
        Path("pyproject.toml").write_text(block.text, encoding="utf-8")
        TuningSuite()
        Path("pyproject.toml").unlink()

    def follow_yaml(self, block: Block) -> None:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--trainer.callbacks", type=list[Callback])
        made = parser.instantiate_classes(parser.parse_string(block.text)).trainer.callbacks
        assert [f"lightning_tuning.{type(callback).__name__}" for callback in made] == re.findall(
            r"class_path: (\S+)", block.text
        )

    def follow_sh(self, block: Block) -> None:
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            while words and "=" in words[0]:
                name, _, value = words.pop(0).partition("=")
                assert name == "LIGHTNING_TUNING"
                assert Settings.from_variable(value) is not None
            program, *arguments = words
            if program == "lightning-tuning":
                _parser().parse_args(arguments)
            elif program == "make":
                makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
                assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in arguments)
            elif program == "python":
                assert arguments[0] == "train.py" or (ROOT / arguments[0]).exists()  # the reader's own script
            else:
                assert (program, arguments) == ("pip", ["install", "lightning-tuning"])


@pytest.fixture
def _as_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setitem(sys.modules, "train", None)  # what a page's `train.py` is imported as, to be put back
    monkeypatch.delitem(sys.modules, "train")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # `seed_everything` sets it; monkeypatch takes it back
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of a name that LightningCLI itself calls
    monkeypatch.delenv("LIGHTNING_TUNING", raising=False)


@pytest.mark.filterwarnings("ignore:GPU available")
@pytest.mark.usefixtures("_as_in_a_shell")
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_is_so(page: str) -> None:
    reader = Reader()
    for block in blocks(PAGES[page]):
        reader.follow(block)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_read(page: str) -> None:
    fences = re.findall(r"^```", PAGES[page], flags=re.MULTILINE)
    assert len(fences) == 2 * len(list(blocks(PAGES[page])))


def anchors(page: str) -> set[str]:
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", WRITTEN)
def test_links_lead_somewhere(page: str) -> None:
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\((?!http)([^)]+)\)", PAGES[page])):
        assert not target or (DOCS / target).exists(), target
        assert not anchor or anchor in anchors(PAGES[target.removesuffix(".md") or page]), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_codes_named_are_rules(page: str) -> None:
    assert [code for code in re.findall(r"\bLT\d{3}\b", PAGES[page]) if code not in CATALOGUE] == []


def test_generated_parts_are_fresh() -> None:
    made = runpy.run_path(str(DOCS / "_generated.py"))
    assert set(made["SEEN"]) == set(made["SUSPECTS"])
    pages = {page.name: page.read_text(encoding="utf-8") for page in made["PAGES"]}
    assert sorted(name for page in pages.values() for name in made["parts_of"](page)) == sorted(made["PARTS"])
    for name, page in pages.items():
        assert page == made["refreshed"](page), f"{name} is behind the code: `python docs/_generated.py` writes it anew"


def test_every_fault_has_a_symptom() -> None:
    faults = {rule.code for rule in CATALOGUE if rule.severity >= Severity.WARNING}
    assert faults - set(re.findall(r"\bLT\d{3}\b", PAGES["symptoms"])) == set()
