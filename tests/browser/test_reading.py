"""What a reader does in a report: filters by mouse and by keyboard, follows links, changes colours, points at plots."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from lightning_tuning.reporters.html._safe import shown
from tests.browser.visit import NARROW, Visit
from tests.run_folders import INJECTIONS, NAMES, SICK

CODES = ["LT314", "LT701", "LT601", "LT608", "LT405"]
FOCUS = """() => {
  const on = document.activeElement, style = getComputedStyle(on);
  const inner = on.matches("svg a") ? getComputedStyle(on.querySelector("rect")) : style;
  return {
    name: on.name ?? "", value: on.value ?? "", tag: on.tagName, says: on.ariaLabel ?? on.textContent.trim(),
    seen: on.matches(":focus-visible")
      && ((style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1) || parseFloat(inner.strokeWidth) >= 2),
  };
}"""


@pytest.fixture
def visit(browser: Browser, report_of) -> Iterator[Visit]:
    with Visit(browser, report_of("sick")) as opened:
        yield opened.drawn()
        assert opened.complaints == []


def codes(page: Page) -> list[str]:
    """Of the findings that are shown."""
    return page.locator("[data-card]:visible .code").all_text_contents()


def tab_to(page: Page, name: str, value: str = "") -> None:
    """Press Tab until the control with this name, and value if there are several, has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        on = page.evaluate(FOCUS)
        assert on["seen"], on
        if on["name"] == name and (not value or on["value"] == value):
            return
    raise AssertionError(f"Tab never came to {name} {value}.")


def test_filters_by_mouse(visit: Visit) -> None:
    page = visit.page
    assert sorted(codes(page)) == sorted(CODES)
    page.locator("#filters").get_by_label("error").uncheck()
    assert sorted(codes(page)) == ["LT405", "LT601", "LT608"]
    page.locator("#filters").get_by_label("info").uncheck()
    assert sorted(codes(page)) == ["LT601", "LT608"]
    page.locator("#filters").get_by_label("Code").select_option(label="LT608 dead-units")
    assert codes(page) == ["LT608"]
    page.get_by_role("searchbox").fill("no such words")
    assert codes(page) == []
    expect(page.get_by_text("No finding is like that")).to_be_visible()
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("[data-card]:visible")).to_have_count(len(CODES))
    page.locator("#filters").get_by_label("Module").fill("net.2")
    assert sorted(codes(page)) == ["LT601", "LT608"]


@pytest.mark.parametrize(
    ("text", "left"),
    [("ADAM", ["LT405"]), ("lt6", ["LT601", "LT608"]), ("train.py:28", ["LT608"]), ("clamp_min", ["LT701"])],
)
def test_any_text_of_a_finding_finds_it(visit: Visit, text: str, left: list[str]) -> None:
    visit.page.get_by_role("searchbox").fill(text)
    assert sorted(codes(visit.page)) == left


def test_filters_by_keyboard_alone(visit: Visit) -> None:
    page = visit.page
    tab_to(page, "severity", "error")
    page.keyboard.press("Space")
    assert sorted(codes(page)) == ["LT405", "LT601", "LT608"]
    tab_to(page, "severity", "info")
    page.keyboard.press("Space")
    assert sorted(codes(page)) == ["LT601", "LT608"]
    tab_to(page, "code")
    page.keyboard.type("LT608")
    assert codes(page) == ["LT608"]
    tab_to(page, "text")
    page.keyboard.type("dead")
    assert codes(page) == ["LT608"]
    page.keyboard.type(" end")
    assert codes(page) == []
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUS)["says"] == "Reset"
    page.keyboard.press("Enter")
    expect(page.locator("[data-card]:visible")).to_have_count(len(CODES))


def test_a_slash_leads_to_the_search(visit: Visit) -> None:
    visit.page.keyboard.press("Slash")
    assert visit.page.evaluate(FOCUS)["name"] == "text"
    visit.page.keyboard.type("a/b")
    assert visit.page.get_by_role("searchbox").input_value() == "a/b"


def test_the_focus_is_seen_wherever_it_goes(visit: Visit) -> None:
    page = visit.page
    visited = []
    for _ in range(200):
        page.keyboard.press("Tab")
        on = page.evaluate(FOCUS)
        if on["tag"] == "BODY":
            break
        assert on["seen"], on
        visited.append(on["tag"])
    assert visited[0] == "A"  # to the findings, past the navigation
    assert {"A", "BUTTON", "INPUT", "SELECT", "SUMMARY", "a"} <= {*visited}
    assert len(visited) >= page.locator("button:visible, summary:visible, a:visible, input:visible").count()


def test_the_first_link_leads_past_the_navigation(visit: Visit) -> None:
    visit.page.keyboard.press("Tab")
    expect(visit.page.get_by_role("link", name="Skip to the findings")).to_be_in_viewport()
    visit.page.keyboard.press("Enter")
    expect(visit.page.get_by_role("heading", name="Findings")).to_be_in_viewport()


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_colours_are_the_readers_choice(browser: Browser, report_of, system: str) -> None:
    with Visit(browser, report_of("sick"), color_scheme=system) as visit:
        page = visit.drawn().page
        colours = {}
        other = "light" if system == "dark" else "dark"
        for theme in (system, other, system):
            axis = page.locator("#plot-loss svg .role-axis-label text").first
            seen = (
                page.evaluate("getComputedStyle(document.body).backgroundColor"),
                page.evaluate("getComputedStyle(document.querySelector('.message')).color"),
                axis.get_attribute("fill"),
            )
            assert colours.setdefault(theme, seen) == seen
            assert visit.run("contrast.js", 4.5)["low"] == []
            rounds = visit.rounds()
            page.get_by_role("button", name="Switch to").press("Enter")
            visit.drawn(again=rounds)
        assert all(one != another for one, another in zip(colours["light"], colours["dark"], strict=True))


def test_from_the_timeline_to_the_finding(visit: Visit) -> None:
    page = visit.page
    pins = page.locator(".lane a")
    assert pins.count() == 3  # steps 50, 61 and 100
    pins.filter(has=page.locator("xpath=self::*[contains(@aria-label, 'LT701')]")).click()
    expect(page.locator(":target")).to_be_in_viewport()
    expect(page.locator(":target")).to_contain_text("the loss is nan")


def test_from_the_picture_of_the_model_to_the_finding_though_it_was_filtered_away(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("searchbox").fill("LT405")
    assert codes(page) == ["LT405"]
    tag = page.locator("#model svg a").filter(has_text="LT601")
    tag.focus()
    page.keyboard.press("Enter")
    expect(page.locator(":target")).to_be_in_viewport()
    expect(page.locator(":target")).to_contain_text(SICK[2].message)


def test_from_the_verdict_to_each_suspect(visit: Visit) -> None:
    links = visit.page.locator(".diagnosis a")
    assert links.count() == 2
    for place, found in enumerate((SICK[0], SICK[2])):
        links.nth(place).click()
        expect(visit.page.locator(":target")).to_be_in_viewport()
        expect(visit.page.locator(":target")).to_contain_text(found.message)


def test_what_can_be_typed_can_be_copied(visit: Visit) -> None:
    press = visit.page.get_by_role("button", name="Copy").first
    press.click()
    expect(press).not_to_have_text("Copy")


def test_a_curve_of_one_point_is_a_point(browser: Browser, report_of) -> None:
    with Visit(browser, report_of("killed")) as visit:  # after its first validation
        points = visit.drawn().page.locator("#plot-loss svg .mark-symbol.role-mark path")
        assert [one.get_attribute("d") != "" for one in points.all()].count(True) >= 1
        curve = visit.page.locator("#plot-loss svg .role-legend-symbol path").nth(1)
        assert points.first.get_attribute("fill") == curve.get_attribute("stroke")


def test_pointing_at_a_plot_tells_its_numbers(visit: Visit) -> None:
    for name, words in {"loss": "step", "grad_norm": "net.2.weight"}.items():
        assert words in point_at(visit.page, name)


@pytest.mark.parametrize(("kind", "texts"), [("injection", INJECTIONS), ("names", NAMES)])
def test_names_are_shown_as_they_are_and_never_run(browser: Browser, report_of, kind: str, texts: list[str]) -> None:
    with Visit(browser, report_of(kind)) as visit:
        page = visit.drawn().page
        visit.unfold()
        words = "".join((page.locator("main").text_content() or "").split())
        assert [text for text in texts if "".join(str(shown(text)).split()).replace("`", "") not in words] == []
        told = [point_at(page, name) for name in ("loss", "grad_norm", "dead_units")]
        assert all(told)
        unseen = re.compile("[\x00-\x08\x0e-\x1f\u202a-\u202e\u2066-\u2069]")  # in plots and what they tell as well
        assert unseen.findall(f"{page.locator('body').inner_text()} {told}") == []
        page.mouse.move(0, 0)
        for control in page.locator("form :is(input, select)").all():
            control.focus()
        page.get_by_role("searchbox").fill(texts[0])
        assert codes(page) != []
        visit.show("dark", NARROW)
        assert page.evaluate("window.pwned") is None
        assert visit.complaints == []
        foreign = "img, iframe, object, embed, base, link, video, audio, script[src], a[href^='javascript:' i]"
        assert page.locator(foreign).count() == 0
        handlers = "[...document.querySelectorAll('*')].flatMap(one => one.getAttributeNames())"
        assert page.evaluate(f"{handlers}.filter(name => name.startsWith('on'))") == []
        assert len(page.frames) == 1


def test_three_thousand_findings_cost_few_events(browser: Browser, report_of) -> None:
    with Visit(browser, report_of("many_findings")) as visit:
        page = visit.drawn().page
        tools = page.context.new_cdp_session(page)
        tools.send("Performance.enable")

        def counted() -> dict[str, int]:
            metrics = tools.send("Performance.getMetrics")["metrics"]
            return {one["name"]: int(one["value"]) for one in metrics}

        loaded = counted()
        assert loaded["LayoutCount"] < 300
        assert loaded["JSEventListeners"] < 1_000
        assert loaded["Nodes"] < 100_000
        assert page.locator("[data-severity]").count() == 3_000
        page.get_by_role("searchbox").fill("net.2998")
        expect(page.locator("[data-card]:visible")).to_have_count(1)
        assert page.locator("[data-severity]:not([hidden])").count() == 1
        filtered = counted()
        assert filtered["LayoutCount"] - loaded["LayoutCount"] < 60
        assert filtered["JSEventListeners"] - loaded["JSEventListeners"] < 50


def point_at(page: Page, plot: str) -> str:
    """What is told of the places over which the pointer goes."""
    place = page.locator(f"#plot-{plot}")
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    assert box is not None
    told = []
    for down in range(1, 10):
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + box["height"] * down / 10)
        tip = page.locator("#vg-tooltip-element.visible")
        told += tip.all_text_contents()
    return " ".join(told)
