"""Pages of the run folders that tests share, each rendered once."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_tuning.reporters.html import render_report
from lightning_tuning.reporters.run_folder import read_run
from lightning_tuning.reporters.run_record import Run
from tests.run_folders import make

Page = Callable[[str], str]


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """The run of a kind of folder."""
    return functools.cache(lambda name: read_run(make(name, tmp_path_factory.mktemp("runs"))))


@pytest.fixture(scope="session")
def page(run_of: Callable[[str], Run]) -> Page:
    """The page of a kind of folder."""
    return functools.cache(lambda name: render_report(run_of(name)))


@pytest.fixture(scope="session")
def plots(page: Page) -> Callable[[str], dict[str, Any]]:
    """What the page's script is given to draw."""

    def read(name: str) -> dict[str, Any]:
        (text,) = re.findall(r'<script type="application/json" id="plots">(.*?)</script>', page(name), re.DOTALL)
        return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))

    return read


@pytest.fixture
def empty_run() -> Run:
    """A run of which nothing is known."""
    return Run(Path("runs/7"), {"status": "running"})
