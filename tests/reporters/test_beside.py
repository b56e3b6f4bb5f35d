"""Lines printed beside progress bars, read as a person reads them: off the screen."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from rich.console import Console
from rich.progress import Progress
from tqdm import tqdm

from lightning_tuning.findings import Finding, Severity
from lightning_tuning.reporters import TerminalReporter
from lightning_tuning.reporters.beside import print_beside_bars
from tests.helpers import Mlp, quiet_trainer

EXPLODING = Finding(
    "LT601",
    "exploding-gradient",
    Severity.WARNING,
    "norm 310.0 is 258 times the running median 1.2",
    where="net.0",
    source_line="mnist.py:41",
    remedy="Trainer(gradient_clip_val=1.9)",
    step=812,
)


class Tty(io.StringIO):
    """A terminal as far as programs can tell."""

    def isatty(self) -> bool:
        return True


def screen(output: str) -> list[str]:
    """The lines that a terminal shows after ``output``, its cursor moved and its lines erased as told."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b]", output):
        if token == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif token == "\r":
            column = 0
        elif token.startswith("\x1b"):
            number = int(re.sub(r"\D", "", token) or 0)
            if token.endswith("A"):
                row = max(0, row - (number or 1))
            elif token.endswith("K"):
                lines[row] = "" if number == 2 else lines[row][:column]
            else:
                assert token[-1] in "mhl", f"unknown sequence {token!r}"
        else:
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}.items():
        monkeypatch.setenv(variable, value)
    for variable in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(variable, raising=False)


@contextlib.contextmanager
def terminal(kind: type[io.StringIO] = Tty) -> Iterator[io.StringIO]:
    """A terminal of 100 columns in the place of ``sys.stdout`` and ``sys.stderr``."""
    stream = kind()
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        yield stream


TOLD = [
    "warning LT601 exploding-gradient at net.0 (mnist.py:41), step 812",
    "  norm 310.0 is 258 times the running median 1.2",
    "  remedy: Trainer(gradient_clip_val=1.9)",
    "  more: lightning-tuning explain LT601",
    "",
]


def test_tqdm_bar_goes_on_below_the_finding() -> None:
    with terminal() as stream, tqdm(total=4, file=sys.stdout, desc="Epoch 0", mininterval=0, ncols=60) as bar:
        bar.update(2)
        TerminalReporter().finding(EXPLODING)
        bar.update(2)
    lines = screen(stream.getvalue())
    assert lines[:5] == TOLD
    assert lines[5].startswith("Epoch 0: 100%")
    assert sum("Epoch 0" in line for line in lines) == 1


def test_rich_bar_goes_on_below_the_finding() -> None:
    with terminal() as stream, Progress(console=Console(), auto_refresh=False) as progress:
        task = progress.add_task("Epoch 0", total=4)
        progress.update(task, advance=2, refresh=True)
        TerminalReporter().finding(EXPLODING)
        progress.update(task, advance=2, refresh=True)
    lines = screen(stream.getvalue())
    assert lines[:5] == TOLD
    assert lines[5].startswith("Epoch 0")
    assert sum("Epoch 0" in line for line in lines) == 1


class Telling(Callback):
    """Tells a finding in the middle of an epoch and closes when the run ends."""

    def __init__(self) -> None:
        self.reporter = TerminalReporter()

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 3:
            self.reporter.finding(EXPLODING)

    def on_fit_end(self, *args: Any) -> None:
        self.reporter.close([EXPLODING], ["lowered the learning rate"])


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_lightnings_own_bars_stay_whole(bar: type[ProgressBar]) -> None:
    with terminal() as stream:
        trainer = quiet_trainer(enable_progress_bar=True, callbacks=[Telling(), bar(refresh_rate=1)])
        trainer.fit(Mlp(batches=6))
    lines = screen(stream.getvalue())
    start = lines.index(TOLD[0])
    assert lines[start : start + 5] == TOLD
    assert sum(line.startswith("Epoch 0") for line in lines) == 1, "\n".join(lines)
    assert lines.index("- lowered the learning rate") > start
    assert "lightning-tuning: 1 warning" in lines


@pytest.mark.parametrize("kind", [Tty, io.StringIO])
def test_a_console_of_another_file_is_left_alone_by_the_bars(kind: type[io.StringIO]) -> None:
    elsewhere = io.StringIO()
    with terminal(kind) as stream, Progress(console=Console(), auto_refresh=False):
        print_beside_bars(Console(file=elsewhere), "one", "two")
    assert elsewhere.getvalue() == "one\ntwo\n"
    assert "one" not in stream.getvalue()


def test_without_a_bar_it_is_a_print() -> None:
    with terminal(io.StringIO) as stream:
        print_beside_bars(Console(), "one   ", "", "two")
    assert stream.getvalue() == "one\n\ntwo\n"
