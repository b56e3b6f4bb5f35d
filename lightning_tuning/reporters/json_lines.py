"""JSON lines: one object a line, appended as it comes, readable however the writer ended."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

__all__ = ["JsonLines", "as_number", "plain", "read_lines"]

VERSION = 1
"""Of the lines' schema. A new field does not raise it; one that is renamed, dropped, or means another thing does."""


class JsonLines:
    """A file to which lines are appended; its first line says what they are.

    Every line is handed to the operating system whole, so that a process that is killed leaves all lines that it wrote,
    and at most half of one more, which :func:`read_lines` leaves out. It is not forced onto the disk: a machine that
    loses power may lose the last lines.

    Args:
        path: its folder is there; lines are added to a file that is there.
        schema: what the lines are, ``"lightning-tuning/readings"``.

    Raises:
        OSError: if it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lines = JsonLines(Path(folder, "readings.jsonl"), "lightning-tuning/readings")
        ...     lines.add({"kind": "lr", "step": 0, "values": {"SGD group 0": math.inf}})
        ...     lines.close()
        ...     print(Path(folder, "readings.jsonl").read_text(), end="")
        {"schema": "lightning-tuning/readings", "version": 1}
        {"kind": "lr", "step": 0, "values": {"SGD group 0": "inf"}}
    """

    def __init__(self, path: Path, schema: str) -> None:
        self._file: IO[bytes] | None = path.open("ab", buffering=0)
        try:
            if self._file.tell() == 0:
                self.add({"schema": schema, "version": VERSION})
            elif not path.read_bytes().endswith(b"\n"):
                self._file.write(b"\n")  # behind half a line of a writer that was killed
        except BaseException:
            self.close()
            raise

    def add(self, *lines: Mapping[str, Any] | str) -> None:
        """Append ``lines`` in one write; numbers that JSON lacks become the texts ``"nan"``, ``"inf"``, ``"-inf"``.

        Args:
            lines: objects, or texts that are JSON already, each without an end of line in it.
        """
        if self._file is not None and lines:
            self._file.write("".join(map(_text, lines)).encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Let go of the file; what is added after this is dropped."""
        if self._file is not None:
            self._file.close()
            self._file = None


_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _text(line: Mapping[str, Any] | str) -> str:
    if isinstance(line, str):
        return line + "\n"
    try:
        return _ENCODE(line) + "\n"
    except (TypeError, ValueError):  # most lines hold nothing that JSON lacks, and to look at each value costs as much
        return _ENCODE(plain(line)) + "\n"


def plain(value: Any) -> Any:
    """``value`` as JSON has it: floats that are not finite as text, tuples as lists, anything unknown as its text.

    Example:
        >>> plain({"loss": float("nan"), "shape": (2, 3)})
        {'loss': 'nan', 'shape': [2, 3]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def as_number(value: Any) -> float | None:
    """What :func:`plain` made of a number, as a number again; ``None`` for what is none.

    Example:
        >>> as_number("-inf"), as_number(3), as_number(None), as_number("net.0")
        (-inf, 3.0, None, None)
    """
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def read_lines(path: Path, schema: str, problems: list[str]) -> Iterator[dict[str, Any]]:
    """The lines of ``path`` but the first; what cannot be read is left out and said in ``problems``.

    Args:
        path: of a file that is there or not.
        schema: what its lines have to be.
        problems: gets a sentence for each thing that is not as it should be: a file that is missing or of another
            schema, a version that is newer than this one, lines that are no JSON objects.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror or error}.")
        return
    broken, is_headed = 0, False
    for line in raw.split(b"\n"):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            broken += 1
        elif "schema" in entry:
            is_headed = True
            if entry["schema"] != schema:
                problems.append(f"{path.name} holds {entry['schema']!r}, not {schema!r}.")
                return
            if not isinstance(entry.get("version"), int) or entry["version"] > VERSION:
                problems.append(f"{path.name} is of version {entry.get('version')!r}; read as version {VERSION}.")
        else:
            yield entry
    if raw and not is_headed:
        problems.append(f"{path.name} does not say what it is (no line with a schema).")
    if broken:
        problems.append(f"Left out of {path.name}, for they cannot be read: {broken} lines.")
