"""One browser for all tests in this folder, in each process; and the report of each kind of run, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from lightning_tuning.reporters.html import render_report
from lightning_tuning.reporters.run_folder import read_run
from tests.browser.visit import open_browser
from tests.run_folders import make

Reports = Callable[[str], Path]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="package")
def report_of(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """The page of the run that :func:`~tests.run_folders.make` calls by this name."""
    made: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("reports")

    def report(name: str) -> Path:
        if name not in made:
            made[name] = folder / f"{name}.html"
            made[name].write_text(render_report(read_run(make(name, folder / name))), encoding="utf-8")
        return made[name]

    return report
