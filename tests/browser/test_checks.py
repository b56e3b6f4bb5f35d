"""What the other tests here check reports by is able to fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.visit import Visit


@pytest.fixture(scope="module")
def visit(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    path = tmp_path_factory.mktemp("visit") / "page.html"
    path.write_text("<!doctype html><html lang=en><title>page</title>", encoding="utf-8")
    with Visit(browser, path) as opened:
        yield opened


@pytest.mark.parametrize(
    ("body", "low"),
    [
        ("<p>black on white", 0),
        ("<p style='color: #767676'>4.54", 0),
        ("<p style='color: #787878'>4.42", 1),
        ("<p style='background: #000'>black on black", 1),
        ("<div style='background: #000'><p style='color: #fff'>white on black <b>twice</b>", 0),
        ("<div style='background: #0008'><p style='color: #777'>grey on half black", 1),
        ("<p style='opacity: .3'>faded", 1),
        ("<p style='color: oklch(0.9 0 0)'>light, in a newer notation", 1),
        ("<p hidden>not there</p><p style='visibility: hidden; color: #fff'>nor this", 0),
        ("<svg width=200 height=50><rect width=200 height=50 fill=#000 /><text y=20>black on black</text></svg>", 1),
        ("<svg width=200 height=50><rect width=200 height=50 /><text y=20 fill=#fff>white on it</text></svg>", 0),
        ("<svg width=200 height=50 style='background: #333'><text y=20 pointer-events=none>dark</text></svg>", 1),
        ("<div style='height: 5000px'></div><p style='color: #eee'>far below", 1),
        ("<style>:root { color-scheme: dark } p { color: #fff }</style><p>on a dark canvas", 0),
        ("<style>:root { color-scheme: dark } p { color: #000 }</style><p>on a dark canvas", 1),
    ],
)
def test_low_contrast_is_seen(visit: Visit, body: str, low: int) -> None:
    visit.page.set_content(body)
    seen = visit.run("contrast.js", 4.5)
    assert len(seen["low"]) == low, seen
    assert seen["checked"] == (0 if "hidden" in body else 2 if "<b>" in body else 1)
    assert seen["unseen"] == []


@pytest.mark.parametrize(
    "body",
    [
        "<script>console.log('said')</script>",
        "<script>undefined.nothing</script>",
        "<script>alert(1)</script>",
        "<script>window.open('about:blank')</script>",
        "<img src='http://127.0.0.1:9/a.png'>",
        "<meta http-equiv=Content-Security-Policy content=\"script-src 'none'\"><script>1</script>",
    ],
)
def test_what_a_page_must_not_do_is_noted(visit: Visit, body: str) -> None:
    visit.complaints.clear()
    visit.page.set_content(body)
    assert visit.complaints


def test_requests_are_noted(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<!doctype html><img src=missing.png>", encoding="utf-8")
    with Visit(browser, path) as visit:
        assert visit.requests == [path.as_uri(), (tmp_path / "missing.png").as_uri()]
