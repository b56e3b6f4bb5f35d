"""The demos are scripts that import each other by their file names, as they do when one of them is run."""

from __future__ import annotations

import contextlib
import http.server
import sys
import threading
from pathlib import Path

import pytest
import torch

from lightning_tuning.reporters.html import render_report
from lightning_tuning.reporters.run_folder import read_run
from tests.browser.visit import Visit, open_browser

DEMOS = str(Path(__file__).resolve().parents[2] / "demos")
if DEMOS not in sys.path:
    sys.path.append(DEMOS)


@pytest.fixture(autouse=True)
def _seed_stays_here(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # `seed_everything` sets it; monkeypatch takes it back
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The folder in which a demo keeps its runs."""
    return tmp_path_factory.mktemp("reports")


@pytest.fixture
def open_reports(reports, tmp_path):
    """``open_reports()`` reads all runs that were kept, and opens the page of the one with the most findings.

    The browser is open no longer than that: while it is, no other event loop can run in this process.
    """

    def open_all() -> None:
        runs = [read_run(folder) for folder in sorted(reports.glob("run-*"))]
        assert runs
        assert [problem for run in runs for problem in run.problems] == []
        run = max(runs, key=lambda run: len(run.findings))
        page = tmp_path / "report.html"
        page.write_text(render_report(run), encoding="utf-8")
        with open_browser() as browser, Visit(browser, page) as visit:
            plots = visit.drawn().run("marks.js")
            assert visit.complaints == []
            assert visit.requests == [page.as_uri()]
            assert visit.page.locator("[data-severity]").count() == len(run.findings)
        assert {*plots} >= {"loss", "gradient", "rates"}
        assert all(plot["marks"] > 1 and not plot["says"] for plot in plots.values()), plots

    return open_all


@pytest.fixture
def serve(monkeypatch):
    """``serve(folder)`` publishes it on this machine; ``serve(None)`` is a server that never answers."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    test_is_over = threading.Event()

    def handler_of(folder: Path | None):
        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=folder)

            def do_GET(self):
                if folder is None:
                    test_is_over.wait(10)
                else:
                    super().do_GET()

            def log_message(self, *args):
                pass

        return Handler

    with contextlib.ExitStack() as servers:

        def start(folder: Path | None) -> str:
            server = servers.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_of(folder)))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
            thread.start()
            servers.callback(thread.join)
            servers.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/"

        yield start
        test_is_over.set()
