"""The page as a file: whole, safe, linked in itself, small, and honest about what it lacks."""

from __future__ import annotations

import dataclasses
import itertools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import altair as alt
import pytest
from jsonschema import ValidationError

import lightning_tuning.reporters.html._page as page_module
from lightning_tuning.findings import Verdict
from lightning_tuning.reporters.html import ReportExtraError, render_report
from lightning_tuning.reporters.run_record import ModelMap, Node, Run
from tests.reporters.html.conftest import Page
from tests.run_folders import INJECTIONS, MAKERS, NAMES

VOID = {"meta", "br", "input", "link", "img", "hr"}
OURS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "script",
        "body",
        "header",
        "main",
        "nav",
        "section",
        "article",
        "footer",
    ),
    *("h1", "h2", "h3", "p", "div", "span", "a", "b", "small", "code", "ol", "ul", "li", "dl", "dt", "dd", "details"),
    *("summary", "figure", "figcaption", "noscript", "table", "thead", "tbody", "tr", "th", "td", "button", "form"),
    *("fieldset", "legend", "label", "input", "select", "option", "output"),
    *("svg", "g", "defs", "marker", "path", "rect", "text"),
}
COLUMNS = {"x", "x2", "y", "lo", "hi", "name", "at", "tip", "href", "s", "kind", "i", "n", "v", "b"}


class Parsed(HTMLParser):
    """What a page is made of: elements that are closed in their order, ids, links and texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids.update(value or "" for name, value in attrs if name == "id")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in {"script", "style"}:
            self.text.append(data)

    def links(self) -> list[str]:
        """Where the page points to, inside of it and outside."""
        return [value for name, value in self.attributes if name in {"href", "src", "action", "data", "poster"}]


@pytest.mark.parametrize("name", MAKERS)
def test_a_page_is_whole(page: Page, name: str) -> None:
    html = page(name)
    parsed = Parsed(html)
    assert html.startswith("<!doctype html>")
    html.encode("utf-8")  # which half a surrogate pair would refuse
    assert parsed.open == []
    assert set(parsed.tags) <= OURS
    assert [tag for tag, count in parsed.ids.items() if count > 1] == []
    assert {link[1:] for link in parsed.links()} <= set(parsed.ids), "a link leads nowhere"
    assert all(link.startswith("#") for link in parsed.links()), "a link leads out of the page"
    assert all(not attribute.startswith("on") for attribute, _ in parsed.attributes)


@pytest.mark.parametrize(("name", "texts"), [("injection", INJECTIONS), ("names", NAMES)])
def test_texts_are_shown_as_they_are(page: Page, name: str, texts: tuple[str, ...]) -> None:
    parsed = Parsed(page(name))
    shown = " ".join(parsed.text)
    for text in texts:
        if text.isprintable():  # what cannot be seen is written out, see below
            assert text[:60] in shown.replace("\n", " "), text
    assert parsed.tags["img"] == parsed.tags["iframe"] == 0
    assert parsed.tags["script"] == 3


def test_what_cannot_be_seen_is_written_out(page: Page) -> None:
    shown = " ".join(Parsed(page("names")).text)
    for written in ("\\u202eevil.\\u2066txt", "half \\ud83d surrogate", "line \\x00 \\x1b[31m red"):
        assert written in shown
    assert not re.search("[\u202a-\u202e\u2066-\u2069\ud800-\udfff\x00]", shown)


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_drawn_is_drawable(plots: Callable[[str], dict[str, Any]], page: Page, name: str) -> None:
    parsed = Parsed(page(name))
    for plot, content in plots(name).items():
        assert f"plot-{plot}" in parsed.ids
        spec = content["spec"]
        named = set(re.findall(r"\{'name': '([a-z]+)'\}", str(spec)))
        assert named <= set(content["data"]), f"{plot} lacks data"
        assert "url" not in str(spec)
        for rows in content["data"].values():
            assert {name for row in rows for name in row} <= COLUMNS


@pytest.mark.parametrize(
    ("name", "plot"),
    [("sick", "gradient"), ("schedule", "rates"), ("sick", "update_ratio"), ("sick", "variance_shift")],
)
def test_what_is_drawn_is_valid(plots: Callable[[str], dict[str, Any]], name: str, plot: str) -> None:
    spec = plots(name)[plot]["spec"]
    alt.Chart.from_dict(spec)
    with pytest.raises(ValidationError):
        alt.Chart.from_dict({**spec, "layer": "cake"})


@pytest.mark.parametrize("name", ["long", "many_findings", "deep"])
def test_a_large_run_makes_a_small_page(page: Page, name: str) -> None:
    assert len(page(name).encode()) < 3_000_000


def test_all_of_it_at_once_is_still_small(run_of: Callable[[str], Run]) -> None:
    parts = [f"encoder.layers.{layer}.{part}" for layer in range(200) for part in ("norm", "q", "k", "v", "ff")]
    nodes = tuple(
        Node(part, f"Linear{place % 7}", ("linear",), (32, 128, 512), 1_000) for place, part in enumerate(parts)
    )
    model = ModelMap(nodes, tuple(itertools.pairwise(range(len(nodes)))))
    found = run_of("many_findings").findings
    findings = [dataclasses.replace(one, where=parts[place % len(parts)]) for place, one in enumerate(found)]
    html = render_report(dataclasses.replace(run_of("long"), findings=findings, model=model))
    assert len(html.encode()) < 3_000_000
    assert "All 1,000 blocks, in 200 boxes" in html


def test_a_page_allows_its_own_scripts_alone(page: Page) -> None:
    html = page("empty")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 2
    from lightning_tuning.reporters.html._safe import digest

    for script in scripts:
        assert digest(script) in policy.replace("&#39;", "'")
    assert policy.startswith("default-src &#39;none&#39;")
    assert "unsafe-eval" not in policy


def test_a_run_of_which_nothing_is_known(empty_run: Run) -> None:
    shown = " ".join(" ".join(Parsed(render_report(empty_run)).text).split())
    for sentence in (
        "No optimizer step was made",
        "Nothing was found.",
        "there are no curves",
        "The model was not traced",
        "What the suite itself took was not measured",
        "No guard or treatment stepped in.",
    ):
        assert sentence in shown


def test_trials_before_the_run_are_told(empty_run: Run) -> None:
    failed = Verdict("overfit one batch", "failed", "loss 1.1 -> 0.759")
    html = render_report(dataclasses.replace(empty_run, verdicts=[Verdict("loss scaling", "passed", "x1.00"), failed]))
    shown = " ".join(" ".join(Parsed(html).text).split())
    assert "overfit one batch failed loss 1.1 -> 0.759 loss scaling passed x1.00" in shown
    assert "Preflight" not in render_report(empty_run)


def test_every_finding_has_its_place(page: Page, run_of: Callable[[str], Run]) -> None:
    parsed = Parsed(page("many_findings"))
    listed = [name for name in parsed.ids if name.startswith("finding-")]
    assert len(listed) == len(run_of("many_findings").findings) == 3_000


@pytest.mark.parametrize("missing", ["jinja2", "altair", "vl_convert"])
def test_a_missing_extra_is_named(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from pathlib import Path\n"
        "from lightning_tuning.reporters.html import render_report\n"
        "from lightning_tuning.reporters.run_record import Run\n"
        "render_report(Run(Path('7'), {'status': 'finished'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"ReportExtraError: A report needs {missing}" in done.stderr
    assert 'pip install "lightning-tuning[report]"' in done.stderr


def test_another_missing_module_is_not_taken_for_the_extra(monkeypatch: pytest.MonkeyPatch, empty_run: Run) -> None:
    monkeypatch.setitem(sys.modules, "lightning_tuning.reporters.html._page", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        render_report(empty_run)
    assert not isinstance(caught.value, ReportExtraError)


def test_the_package_alone_loads_nothing_of_the_extra() -> None:
    code = (
        "import sys, lightning_tuning, lightning_tuning.reporters.html\n"
        "print(sorted({'altair', 'vl_convert', 'narwhals'} & set(sys.modules)),"
        " 'lightning_tuning.reporters.html._page' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] False"


def test_templates_are_part_of_the_package() -> None:
    folder = files("lightning_tuning.reporters.html")
    assert {entry.name for entry in (folder / "static").iterdir()} == {"report.css", "report.js"}
    names = {entry.name for entry in (folder / "templates").iterdir()}
    assert names == {f"{name}.html.j2" for name in ("report", "macros", "verdict", "findings", "model", "run")}
    assert page_module.SNIPPET.startswith("window.")
