"""The site holds a page for every rule, callback and command, asks nothing of the network, and its links hold."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator

import pytest

import lightning_tuning
from lightning_tuning import CATALOGUE, functional
from lightning_tuning.cli import _parser
from tests.cases import cases
from tests.cases.recorded import recorded
from tests.contracts.discovery import CALLBACKS
from tests.docs.conftest import ROOT, Html, Site

SECTIONS = (
    "why-it-is-bad",
    "what-to-change",
    "example",
    "how-it-is-judged",
    "options",
    "how-to-silence-it",
    "references",
)
PLAIN_LINKS = frozenset({"a"})
OUTSIDE = re.compile(r"(?:https?:)?//")


def flat(text: str) -> str:
    """Without white space, of which HTML and terminal have each their own; nor backticks, which become elements."""
    return re.sub(r"[\s`]+", "", text)


def first_paragraph(value: object) -> list[str]:
    """Of its docstring, what stands between formulas."""
    text = (inspect.getdoc(value) or "").split("\n\n")[0]
    return [flat(re.sub(r":\w+:`", "", piece)) for piece in re.split(r":math:`[^`]*`", text)]


@pytest.mark.parametrize("rule", CATALOGUE, ids=lambda rule: rule.code)
def test_every_rule_has_a_page(site: Site, rule: lightning_tuning.Rule) -> None:
    page = site.pages[f"rules/{rule.code}/"]
    assert page.ids.issuperset(SECTIONS)
    text = flat(page.text)
    for said in (f"{rule.code} {rule.name}", rule.why, rule.remedy[1:], rule.source[1:], f'ignore=["{rule.code}"]'):
        assert flat(said) in text, said
    for case in cases():
        if case.code == rule.code:
            assert flat(recorded()[str(case)]["message"]) in text, case
            assert all(code in page.text for code in case.also), case


def test_the_rules_that_a_callback_speaks_of_lead_to_it_and_back(site: Site) -> None:
    for rule in CATALOGUE:
        page = f"rules/{rule.code}/"
        links = {site.target(page, link)[0] for link in links_of(site.pages[page])}
        speakers = {link for link in links if re.fullmatch(r"callbacks/\w+/", link)}
        assert speakers, rule.code
        assert any(
            site.target(speaker, link)[0] == page for speaker in speakers for link in links_of(site.pages[speaker])
        ), rule.code


def test_every_public_name_has_a_page(site: Site) -> None:
    for name in lightning_tuning.__all__:
        page = site.pages[f"callbacks/{name}/"]
        assert all(said in flat(page.text) for said in first_paragraph(getattr(lightning_tuning, name))), name


def test_a_callback_page_describes_every_argument(site: Site) -> None:
    for name, kind in CALLBACKS.items():
        text = site.pages[f"callbacks/{name}/"].text
        for argument in inspect.signature(kind).parameters:
            assert re.search(rf"\b{argument}\b", text), f"{name}({argument})"


def test_every_function_is_described(site: Site) -> None:
    page = site.pages["functional/"]
    for name in functional.__all__:
        assert f"{getattr(functional, name).__module__}.{name}" in page.ids
        assert all(said in flat(page.text) for said in first_paragraph(getattr(functional, name))), name
    assert any(element.tag == "math" for element in page.elements)


def test_the_lists_are_complete(site: Site) -> None:
    for folder, names in (("rules", [rule.code for rule in CATALOGUE]), ("callbacks", lightning_tuning.__all__)):
        listed = {site.target(f"{folder}/", link)[0] for link in links_of(site.pages[f"{folder}/"])}
        assert {f"{folder}/{name}/" for name in names} <= listed


def test_every_command_and_argument_is_described(site: Site) -> None:
    text = site.pages["command-line/"].text
    (commands,) = [action for action in _parser()._actions if action.dest == "command"]
    for name, command in commands.choices.items():
        assert f"lightning-tuning {name}" in text
        for action in command._actions[1:]:  # the first is --help
            assert all(option in text for option in action.option_strings), (name, action)


def test_nothing_is_asked_of_the_network(site: Site) -> None:
    outside = [
        (page, element)
        for page, html in site.pages.items()
        for element in html.elements
        for name, value in element.attributes.items()
        if name in ("src", "href", "srcset", "data", "poster", "action") and OUTSIDE.match(value)
        if element.tag not in PLAIN_LINKS
    ]
    assert outside == []
    # Material's script would fetch a library for diagrams where a page has one.
    assert not any("mermaid" in e.attributes.get("class", "") for html in site.pages.values() for e in html.elements)
    for style in site.folder.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)]*", text) == [], style


def test_internal_links_lead_somewhere(site: Site) -> None:
    broken = []
    for page, html in site.pages.items():
        for link in links_of(html):
            target, fragment = site.target(page, link)
            known = site.pages.get(target)
            is_there = (site.folder / target).exists() and (known is None or not fragment or fragment in known.ids)
            if not is_there:
                broken.append((page, link))
    assert broken == []


def links_of(html: Html) -> Iterator[str]:
    """What is inside of the site, pages and what they load."""
    for element in html.elements:
        link = element.attributes.get("href", element.attributes.get("src", ""))
        if link and not OUTSIDE.match(link) and not link.startswith(("data:", "mailto:")):
            yield link


def test_the_search_knows_every_page(site: Site) -> None:
    index = json.loads((site.folder / "search" / "search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert set(site.pages) <= places
    (rule,) = [entry for entry in index["docs"] if entry["location"] == "rules/LT314/"]
    assert rule["title"] == "LT314 redundant-softmax"


def test_codes_in_prose_are_links(site: Site) -> None:
    changelog = {site.target("changelog/", link)[0] for link in links_of(site.pages["changelog/"])}
    assert {"rules/LT601/", "callbacks/NanLossGuard/"} <= changelog


def test_the_source_of_runs_is_code(site: Site) -> None:
    """What stands in the boxes of the sick and the cured run, taken out of the files of cases, is whole."""
    html = (site.folder / "rules" / "LT606" / "index.html").read_text(encoding="utf-8")
    boxes = re.findall(r'<div class="admonition (?:failure|success)">.*?<code[^>]*>(.*?)</code>', html, flags=re.DOTALL)
    runs = [Html(box).text for box in boxes]
    assert len(runs) == 8
    assert all(isinstance(ast.parse(run, mode="eval").body, ast.Call) for run in runs)
    assert runs[:2] == ["lightnings(1e-4)\n", "lightnings(1.0)\n"]


def test_docstrings_leave_nothing_of_sphinx(site: Site) -> None:
    left = re.compile(r"={4,} ={4,}|:(?:class|meth|func|attr|math|mod):|^\s*\.\. \w+::", re.MULTILINE)
    found = [(page, said[0]) for page, html in site.pages.items() for said in left.finditer(html.text)]
    of_helpers = [place for place in found if place[0].startswith("rules/")]  # sources are shown as they are
    assert [place for place in found if place not in of_helpers] == []


def test_no_generated_page_is_checked_in() -> None:
    assert not (ROOT / "docs" / "rules").exists()
    assert not (ROOT / "docs" / "callbacks").exists()
