"""Whose a run folder is: a run that is resumed goes on in its own, a new one moves another's aside."""

from __future__ import annotations

import contextlib
import itertools
import json
import weakref
from pathlib import Path
from typing import Any

from lightning_tuning.findings.whole_file import lock, unlock, write_text_whole
from lightning_tuning.reporters.json_lines import VERSION, JsonLines, plain, read_lines
from lightning_tuning.reporters.run_folder import FINDINGS, MODEL, READINGS, RUN

__all__ = ["RunFiles"]

_SCHEMAS = {FINDINGS: "lightning-tuning/findings", READINGS: "lightning-tuning/readings"}


class RunFiles:
    """The files of one run, open for writing.

    Args:
        folder: where they should lie. A run of the same ``run`` goes on in it. Any other that lies there is moved to
            ``folder-1`` (or the first number that is free), and its report with it; one that is still being written
            stays where it is, and this one takes the number.
        report: the HTML file that goes with ``folder``, if there is to be one.
        run: the id of this run.

    Attributes:
        folder: where they do lie.
        report: likewise.
        began: what ``run.json`` held, of a run that goes on; else empty.
        seconds: how long that run was recorded for.

    Raises:
        OSError: if nothing can be written there.
    """

    def __init__(self, folder: Path, report: Path | None, run: str) -> None:
        self.folder, self.report = folder, report
        self.began: dict[str, Any] = {}
        self.seconds = 0.0
        if _is_run(folder):
            known = _info(folder)
            if _is_being_written(folder):
                number = _free(folder, report)
                self.folder = _numbered(folder, number)
                if report is not None:
                    is_in_it = report.is_relative_to(folder)
                    self.report = self.folder / report.relative_to(folder) if is_in_it else _numbered(report, number)
            elif known.get("id") == run:
                self.began, self.seconds = known, _seconds(folder)
            else:
                _move_aside(folder, report)
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            self.findings, self.readings = (
                opened.enter_context(contextlib.closing(JsonLines(self.folder / name, schema)))
                for name, schema in _SCHEMAS.items()
            )
            mark = opened.enter_context((self.folder / READINGS).open("rb"))
            lock(mark)
            opened.callback(unlock, mark)
            self._close = weakref.finalize(self, opened.pop_all().close)

    @property
    def goes_on(self) -> bool:
        """An earlier part of the same run is there."""
        return bool(self.began)

    def write_run(self, info: dict[str, Any]) -> None:
        """Put ``info`` into the place of ``run.json``, whole."""
        _write(self.folder / RUN, {"schema": "lightning-tuning/run", "version": VERSION, **info})

    def write_model(self, model: dict[str, Any]) -> None:
        """Put ``model`` into the place of ``model.json``, whole."""
        _write(self.folder / MODEL, {"schema": "lightning-tuning/model", "version": VERSION, **model})

    def close(self) -> None:
        """Let go of the files; what is added to them after this is dropped."""
        self._close()


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RUN, FINDINGS, READINGS, MODEL))


def _info(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / RUN).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_being_written(folder: Path) -> bool:
    """By another process, or another callback of this one."""
    try:
        with (folder / READINGS).open("rb") as mark:
            is_free = lock(mark)
            unlock(mark)
    except OSError:
        return False
    return is_free is False


def _seconds(folder: Path) -> float:
    """Of the last line that tells."""
    lines = read_lines(folder / READINGS, _SCHEMAS[READINGS], [])
    told = [line["seconds"] for line in lines if isinstance(line.get("seconds"), int | float)]
    return max(told, default=0.0)


def _move_aside(folder: Path, report: Path | None) -> None:
    number = _free(folder, report)
    folder.rename(_numbered(folder, number))
    if report is not None and report.is_file():
        report.rename(_numbered(report, number))


def _free(folder: Path, report: Path | None) -> int:
    """The first number that neither a folder nor a report has."""
    places = [folder] if report is None or report.is_relative_to(folder) else [folder, report]
    return next(n for n in itertools.count(1) if not any(_numbered(place, n).exists() for place in places))


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def _write(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(plain(content), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    write_text_whole(path, text)
