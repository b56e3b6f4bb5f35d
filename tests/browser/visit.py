"""A browser for tests, and what it notes of a page: ``with open_browser() as browser, Visit(browser, path) as it``."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
NO_BROWSER = "NO BROWSER, so no report was opened: `make browser` installs one, CHROMIUM=/path/to/chrome names one"
# No name is looked up, whatever asks for it; nothing is fetched in the background; no GPU is waited for.
ARGUMENTS = ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--disable-gpu"]
WIDE, NARROW, HIGH = 1280, 480, 900


def find_browser(playwright: Playwright) -> str | None:
    """Where Chromium is: ``CHROMIUM``, one on ``PATH``, or playwright's own; ``None`` where there is none.

    Raises:
        ValueError: if ``CHROMIUM`` is set to what is no program.
    """
    if named := os.environ.get("CHROMIUM"):
        if found := shutil.which(named):
            return found
        raise ValueError(f"CHROMIUM={named} is no program.")
    on_path = (shutil.which(name) for name in NAMES)
    own = playwright.chromium.executable_path
    return next(filter(None, on_path), own if Path(own).exists() else None)


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser, closed at the end; the test is skipped where there is none, and fails if that is under CI.

    While it is open, playwright's event loop counts as running in this thread: nothing else here can have one.
    """
    with sync_playwright() as playwright:
        path = find_browser(playwright)
        if path is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(NO_BROWSER)
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Visit(contextlib.AbstractContextManager["Visit"]):
    """A page that was opened from disk, and all that it did which a report must not do.

    Args:
        browser: from :func:`open_browser`.
        path: of the page.
        options: of ``browser.new_context``.

    Attributes:
        page: playwright's.
        complaints: what the console said, errors of scripts, dialogs.
        requests: addresses that were asked for, the page's own among them.
    """

    def __init__(self, browser: Browser, path: Path, **options: Any) -> None:
        self.path = path
        self.complaints: list[str] = []
        self.requests: list[str] = []
        settings = {
            "offline": True,
            "color_scheme": "light",
            "reduced_motion": "reduce",
            "viewport": {"width": WIDE, "height": HIGH},
        }
        self._context = browser.new_context(**{**settings, **options})
        self.page: Page = self._context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", self._refuse)
        self._context.on("page", lambda page: self.complaints.append(f"opened {page.url}"))
        self.page.goto(path.as_uri())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave the page."""
        self._context.close()

    def drawn(self) -> Visit:
        """The same, when every plot has been drawn."""
        self.page.wait_for_function("document.documentElement.dataset.drawn")
        return self

    def show(self, theme: str = "light", width: int = WIDE) -> None:
        """Have the page as a reader with this ``color_scheme`` and this window sees it, plots and all."""
        page = self.page
        if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") != (theme == "dark"):
            rounds = page.evaluate("document.documentElement.dataset.drawn")
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            page.wait_for_function("before => document.documentElement.dataset.drawn !== before", arg=rounds)
        page.set_viewport_size({"width": width, "height": HIGH})
        page.wait_for_function(
            "[...document.querySelectorAll('.plot > :is(svg, canvas)')]"
            ".every(plot => plot.getBoundingClientRect().width <= plot.parentElement.getBoundingClientRect().width + 1)"
        )

    def unfold(self, *, is_open: bool = True) -> None:
        """Open everything that is folded, or close it."""
        self.page.evaluate(
            "open => document.querySelectorAll('details').forEach(fold => { fold.open = open })", is_open
        )

    def run(self, script: str, argument: Any = None) -> Any:
        """What the function in ``script`` says in the page; ``.js``: a file beside this one."""
        if script.endswith(".js"):
            script = Path(__file__).with_name(script).read_text(encoding="utf-8")
        return self.page.evaluate(script, argument)

    def _hear(self, message: ConsoleMessage) -> None:
        self.complaints.append(f"{message.type}: {message.text}")

    def _refuse(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()
