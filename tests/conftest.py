"""What holds for every test: one torch thread, fixed seeds, a calm Lightning, an empty folder to work in."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

# The same examples on every run; a slow machine is no failure.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> Iterator[None]:
    # The workers of pytest-xdist share the cores; sums are also taken in one order then, whatever the machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def _calm_lightning() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):  # "GPU available: False" at every Trainer
        logging.getLogger(name).setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a logger or a checkpoint left at its default folder stays out of the repository


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    # What a test draws without a seed of its own must not depend on the tests that ran before it in the same worker.
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # A skipped test is a letter among thousands of dots; that a whole kind of tests had nothing to run in is said.
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", ())]
    if missing := sum("NO BROWSER" in reason for reason in reasons):
        terminalreporter.write_line(
            f"{missing} tests found NO BROWSER: no report was opened. See `make browser`.", red=True
        )
