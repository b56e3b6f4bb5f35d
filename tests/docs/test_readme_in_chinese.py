"""``README.zh-CN.md`` says what ``README.md`` says: same blocks, names, links and rows, section by section."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
EACH_OTHER = {"README.md", "README.md#rules", "README.zh-CN.md"}
FENCED = re.compile(r"^```\w+\n.*?^```$", flags=re.MULTILINE | re.DOTALL)


class Section(NamedTuple):
    """A heading and what stands under it, down to the next one; the blocks apart."""

    heading: str
    blocks: list[str]
    prose: str

    @property
    def names(self) -> set[str]:
        return set(re.findall(r"`[^`\n]+`", self.prose))

    @property
    def links(self) -> set[str]:
        return set(re.findall(r"\]\(([^)]+)\)", self.prose)) - EACH_OTHER

    @property
    def codes(self) -> set[str]:
        return set(re.findall(r"\bLT\d{3}\b", self.prose))

    @property
    def rows(self) -> list[str]:
        """What each row of a table is about."""
        firsts = re.findall(r"^\| ?([^|]*)\|", self.prose, flags=re.MULTILINE)
        return [" ".join(re.findall(r"`[^`]+`", first)) for first in firsts]


def sections(page: str) -> list[Section]:
    page = re.sub("<!-- rules:begin -->.*<!-- rules:end -->", "", page, flags=re.DOTALL)  # compared elsewhere
    kept = FENCED.findall(page)
    found = []
    for text in re.split(r"^(?=#+ )", FENCED.sub("\0", page), flags=re.MULTILINE):
        blocks = [kept.pop(0) for _ in range(text.count("\0"))]
        heading, _, prose = text.partition("\n")
        found.append(Section(heading.strip(), blocks, prose))
    return found


PAIRS = list(zip(sections(ENGLISH), sections(CHINESE), strict=False))


def lacks(here: Section, there: Section, what: set[str]) -> str:
    return f"under {here.heading!r} ({there.heading!r} there) stands nothing of {sorted(what)}"


def test_sections_are_the_same() -> None:
    english, chinese = ([section.heading for section in sections(page)[1:]] for page in (ENGLISH, CHINESE))
    levels = [[heading.partition(" ")[0] for heading in headings] for headings in (english, chinese)]
    assert levels[0] == levels[1], f"{english}\n{chinese}"


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=[english.heading for english, _ in PAIRS])
def test_a_section_says_the_same(english: Section, chinese: Section) -> None:
    missing = [block for block in english.blocks if block not in chinese.blocks]
    assert not missing, f"README.zh-CN.md lacks under {chinese.heading!r} the block\n{missing[0]}"
    assert chinese.blocks == english.blocks, "a block too many, or in another order"
    for what in ("codes", "links", "names"):
        wanted, has = getattr(english, what), getattr(chinese, what)
        assert not wanted - has, lacks(chinese, english, wanted - has)
        assert not has - wanted, lacks(english, chinese, has - wanted)
    assert chinese.rows == english.rows


def test_each_leads_to_the_other() -> None:
    assert "[简体中文](README.zh-CN.md)" in ENGLISH.splitlines()[0]
    assert "[English](README.md)" in CHINESE.splitlines()[0]


def test_a_block_that_is_missing_is_named() -> None:
    english = Section("## Use", ["```sh\nmake demo\n```"], "`make demo`")
    with pytest.raises(AssertionError, match=r"lacks under '## 使用' the block\s+```sh\s+make demo"):
        test_a_section_says_the_same(english, Section("## 使用", [], "`make demo`"))
    with pytest.raises(AssertionError, match=r"stands nothing of \['`make demo`'\]"):
        test_a_section_says_the_same(english, Section("## 使用", english.blocks, ""))
