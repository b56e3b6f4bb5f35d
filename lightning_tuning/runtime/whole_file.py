"""A file that is there whole or not at all: written aside, forced onto the disk, moved into place."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

fcntl: Any = None  # Windows has none; an open file cannot be removed there, which says as much as a lock
if os.name == "posix":
    import fcntl

__all__ = ["lock", "sync", "unlock", "write_text_whole", "write_whole"]

_MARK = re.compile(r"\..*\.[0-9a-f]{32}\.mark")
_LONGEST = 200  # of a name that has 255 bytes, to leave room for what makes it a draft's


def write_whole(path: Path, fill: Callable[[Path], None]) -> None:
    """Have ``fill`` write a draft beside ``path``, and put it in the place of ``path`` when it is safe on the disk.

    Whoever is killed on the way leaves ``path`` as it was, and a hidden draft that the next call for this folder
    removes. Beside a draft lies a mark that is locked while it is written, so that one of another run is left alone.

    Args:
        path: its folder is made if it is not there; a file that is there is replaced.
        fill: gets a path where there is no file yet.

    Raises:
        OSError: if it cannot be written, and whatever ``fill`` raises; nothing is left of it then.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder, "a.txt"), lambda draft: draft.write_text("whole") and None)
        ...     [path.name for path in Path(folder).iterdir()]
        ['a.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    mark = path.parent / f".{path.name[:_LONGEST]}.{uuid.uuid4().hex}.mark"
    draft = _draft_of(mark)
    try:
        with mark.open("xb") as held:  # a file of its own: who fills the draft may put another in its place
            if fcntl is None:
                held.close()
            lock(held)
            fill(draft)
            sync(draft)
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
        mark.unlink(missing_ok=True)
    sync(path.parent)


def write_text_whole(path: Path, text: str) -> None:
    """``text``, in UTF-8, in the place of ``path``; see :func:`write_whole`. Characters that it lacks are escaped."""
    data = text.encode("utf-8", "backslashreplace")

    def fill(draft: Path) -> None:
        draft.write_bytes(data)

    write_whole(path, fill)


def sync(path: Path) -> None:
    """Have the disk keep it; Windows has no such thing for folders."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(mark: IO[bytes]) -> bool | None:
    """Whether the lock was had, which lasts as long as the file is open; ``None`` where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def unlock(mark: IO[bytes]) -> None:
    """Give the lock back, for every process that has the file open: to close it does so in this one alone."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(mark, fcntl.LOCK_UN)


def _draft_of(mark: Path) -> Path:
    return mark.with_suffix(".draft")


def _remove_abandoned(folder: Path) -> None:
    """Remove the drafts whose writers are gone; of one of which that cannot be told nothing is touched."""
    if fcntl is None:
        return
    for mark in folder.iterdir():
        if _MARK.fullmatch(mark.name):
            with contextlib.suppress(OSError), mark.open("rb") as held:
                if lock(held):
                    _draft_of(mark).unlink(missing_ok=True)
                    mark.unlink()
