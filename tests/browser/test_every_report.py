"""The report of every kind of run: whole, quiet, legible, in order, in light and dark, wide and narrow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from lightning_tuning.reporters.html._safe import shown
from lightning_tuning.reporters.run_folder import read_run
from lightning_tuning.reporters.run_record import Run
from tests.browser.visit import HIGH, NARROW, Visit
from tests.run_folders import MAKERS, make

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
LONGEST = 6_000
"""Pixels of a screenshot; what follows are findings that look like those before."""
PLOTS = {"loss", "gradient", "clipping", "rates"}
HEAT_MAPS = {"update_ratio", "grad_norm", "dead_units", "saturated_units", "attention_entropy"}
CONTROLS = "button|link|checkbox|textbox|searchbox|combobox|group|img|region|navigation"


@pytest.fixture(scope="module", params=MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(make(kind, tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def visit(browser: Browser, kind: str, report_of) -> Iterator[Visit]:
    with Visit(browser, report_of(kind)) as opened:
        yield opened.drawn()


def test_it_opens_from_disk_and_asks_for_nothing_else(visit: Visit) -> None:
    assert visit.complaints == []
    assert visit.requests == [visit.path.as_uri()]


def test_its_title_is_its_verdict(visit: Visit) -> None:
    (headline,) = visit.page.locator("h1").all_text_contents()
    assert headline
    assert visit.page.title().startswith(" ".join(headline.split()))
    assert visit.page.title().endswith("lightning-tuning")


def test_it_can_be_sent_by_mail(visit: Visit) -> None:
    assert visit.path.stat().st_size < 3_000_000


def test_every_plot_shows_its_data(visit: Visit, kind: str) -> None:
    plots = visit.run("marks.js")
    assert {*plots} >= (set() if kind == "empty" else PLOTS | HEAT_MAPS)
    assert (plots == {}) is (kind == "empty")
    for name, plot in plots.items():
        assert plot["says"] == "", name
        assert plot["rows"] > 0, name
        # Of one value there is a mark, and of a map of one colour an area.
        assert plot["marks"] >= (min(plot["rows"], 50) if name in PLOTS else 1), name
        assert min(plot["width"], plot["height"]) > 50, name


def test_it_is_put_together_in_order(visit: Visit) -> None:
    structure = visit.run("structure.js")
    assert structure["tops"] == 1
    assert structure["within"] > 0
    assert {name: structure[name] for name in ("jumps", "twice", "away", "broken")} == {
        "jumps": [],
        "twice": [],
        "away": [],
        "broken": [],
    }


def test_every_control_has_a_name(visit: Visit) -> None:
    snapshot = visit.page.locator("body").aria_snapshot()
    assert re.search(r'- (button|link) "', snapshot)
    assert re.findall(rf"^ *- (?:{CONTROLS})(?::| \[.*|)$", snapshot, re.MULTILINE) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read(visit: Visit, run: Run, kind: str, theme: str) -> None:
    visit.show(theme)
    take(visit, f"{kind}-{theme}")
    visit.unfold()
    seen = visit.run("contrast.js", 4.5)
    assert seen["low"] == []
    # The link that jumps over the navigation is there once it has the focus.
    assert [text for text in seen["unseen"] if not text.startswith("<A skip>")] == []
    assert seen["checked"] > 50 + 5 * min(3, len(run.findings))


def test_a_narrow_window_needs_no_scrolling_sideways(visit: Visit, kind: str) -> None:
    visit.show(width=NARROW)
    take(visit, f"{kind}-narrow")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= NARROW
    assert [text for text in visit.run("contrast.js", 4.5)["unseen"] if not text.startswith("<A skip>")] == []


def test_without_javascript_the_findings_are_there(browser: Browser, visit: Visit, run: Run) -> None:
    with Visit(browser, visit.path, java_script_enabled=False) as bare:
        text = plain(bare.page.locator("main").text_content() or "")
        visible = plain(bare.page.locator("main").inner_text())
        assert bare.complaints == []
    for found in run.findings:
        assert plain(found.message) in text
        assert plain(found.where) in text
    for found in run.findings[:1]:
        assert plain(found.message) in visible
        assert plain(found.remedy).replace("`", "") in visible
    for note in run.notes[:20]:
        assert plain(note) in visible


@pytest.mark.parametrize("kind", ["sick", "empty", "names"], indirect=True)
def test_axe_finds_nothing(visit: Visit) -> None:
    visit.show()
    violations = Axe().run(visit.page).response["violations"]
    assert [(one["id"], one["help"], [node["html"][:200] for node in one["nodes"][:3]]) for one in violations] == []


def plain(text: str) -> str:
    """As it stands on a page: without white space and backticks, and with signs written out that nobody could see."""
    return "".join(str(shown(text)).split()).replace("`", "")


def take(visit: Visit, name: str) -> None:
    """Keep a picture of the page for people."""
    visit.unfold(is_open=False)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    width, height = visit.page.evaluate("[innerWidth, document.documentElement.scrollHeight]")
    visit.page.set_viewport_size({"width": width, "height": min(height, LONGEST)})
    visit.page.screenshot(path=SCREENSHOTS / f"{name}.png")
    visit.page.set_viewport_size({"width": width, "height": HIGH})
