"""A folder that is there whole or not at all: written aside, sealed by a manifest of hashes, moved into place."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from lightning_tuning.findings.whole_file import fcntl, lock, sync

__all__ = ["FORMAT", "MANIFEST", "VERSION", "BundleError", "check_folder", "clean_up", "write_folder"]

FORMAT = "lightning-tuning-bundle"
VERSION = 1
MANIFEST = "manifest.json"

_LOCK = ".writer"
_UNFINISHED = ".unfinished-"
_OURS = re.compile(re.escape(_UNFINISHED) + r"[0-9a-f]{32}")
_CHUNK = 1 << 20


class BundleError(ValueError):
    """Something is no bundle, or a damaged one; the message is one line that says what is wrong with it."""


def write_folder(parent: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """Have ``fill`` write files into a new folder, and give it its ``name`` when all of them are safe on the disk.

    Whoever is killed on the way leaves a folder that is none: hidden, under another name, and removed by the next
    :func:`clean_up`. Nothing that exists is overwritten: the name gets a number where it is taken.

    Args:
        parent: made if it is not there.
        name: of the folder.
        fill: gets the path of an empty folder.

    Returns:
        The path it has in the end.

    Raises:
        OSError: if it cannot be written; nothing is left then.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with _unfinished(parent) as folder:
        fill(folder)
        _seal(folder)
        final = _move(folder, parent, name)
    sync(parent)
    with contextlib.suppress(OSError):
        (final / _LOCK).unlink()
    return final


def clean_up(parent: Path) -> list[str]:
    """Remove what killed writers have left in ``parent``, and nothing else.

    Ours is a folder with our kind of name, our mark in it, of this user, whose writer holds its lock no more. One that
    is being written at this moment, by another run, is left alone, and so is one of which that cannot be told.

    Returns:
        The names of what was removed.
    """
    if not parent.is_dir():
        return []
    leftovers = [path for path in parent.iterdir() if _OURS.fullmatch(path.name) and _is_own_folder(path)]
    return [path.name for path in leftovers if _remove_abandoned(path)]


def check_folder(path: Path) -> dict[str, Any]:
    """The manifest of a folder that is what it was when it was written.

    Raises:
        BundleError: if it is not, or was no bundle to begin with.
    """
    if not path.is_dir():
        raise BundleError(f"no bundle at {str(path)!r}: there is no such folder.")
    if _OURS.fullmatch(path.resolve().name):
        raise BundleError(f"{str(path)!r} is no bundle yet: whoever wrote it has not finished.")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = sorted(file.parent.name for file in path.glob(f"*/{MANIFEST}"))
        inside = [name for name in names if not _OURS.fullmatch(name)]
        hint = f"; in it there are {', '.join(inside[:5])}" if inside else ""
        raise BundleError(f"{str(path)!r} is no bundle: it has no {MANIFEST}{hint}.") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"the bundle is damaged: {MANIFEST} cannot be read.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{str(path)!r} is no bundle of lightning-tuning: its {MANIFEST} is of something else.")
    version, files = manifest.get("version"), manifest.get("files")
    if not isinstance(version, int) or version > VERSION:
        raise BundleError(f"the bundle has format version {version!r}; this lightning-tuning reads up to {VERSION}.")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise BundleError(f"the bundle is damaged: {MANIFEST} lists no files.")
    for name, entry in files.items():
        _check_file(path, name, entry)
    return manifest


def _check_file(folder: Path, name: str, entry: dict[str, Any]) -> None:
    if Path(name).name != name:
        raise BundleError(f"the bundle is damaged: {name!r} is no name of a file in it.")
    if not (folder / name).is_file():
        raise BundleError(f"the bundle is damaged: {name} is missing.")
    try:
        size, digest = (folder / name).stat().st_size, _sha256(folder / name)
    except OSError as error:
        raise BundleError(f"the bundle is damaged: {name} cannot be read.") from error
    if size != entry.get("bytes"):
        raise BundleError(f"the bundle is damaged: {name} has {size} bytes of {entry.get('bytes')}.")
    if digest != entry.get("sha256"):
        raise BundleError(f"the bundle is damaged: {name} is not what was written (SHA-256 differs).")


@contextlib.contextmanager
def _unfinished(parent: Path) -> Iterator[Path]:
    """A new folder, locked while it is written; what is still there in the end is removed."""
    folder, mark = _new_folder(parent)
    try:
        with mark:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _new_folder(parent: Path) -> tuple[Path, IO[bytes]]:
    while True:
        folder = parent / f"{_UNFINISHED}{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            mark = (folder / _LOCK).open("xb")
            mark.write(FORMAT.encode())
            mark.flush()
            if lock(mark) is not False and os.path.samestat(os.fstat(mark.fileno()), (folder / _LOCK).stat()):
                return folder, mark
        except FileNotFoundError:
            continue  # cleaned up by another run between two of these lines
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        mark.close()


def _is_own_folder(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.is_dir() and not path.is_symlink() and (os.name == "nt" or path.stat().st_uid == os.getuid())
    return False


def _remove_abandoned(folder: Path) -> bool:
    mark = folder / _LOCK
    try:
        if not any(folder.iterdir()):
            folder.rmdir()  # killed before it could be marked
            return True
        if mark.is_symlink() or mark.read_bytes() not in (b"", FORMAT.encode()):
            return False
        if fcntl is None:
            mark.unlink()
        else:
            with mark.open("rb+") as file:
                if lock(file) is not True:
                    return False
                shutil.rmtree(folder)
    except OSError:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def _seal(folder: Path) -> None:
    """Force every file onto the disk, and then the manifest with their hashes."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name != _LOCK:
            sync(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"format": FORMAT, "version": VERSION, "files": files}, indent=2) + "\n", "utf-8")
    sync(manifest)
    sync(folder)


def _move(folder: Path, parent: Path, name: str) -> Path:
    for number in itertools.count(1):
        final = parent / (name if number == 1 else f"{name}.{number}")
        if final.exists():
            continue
        try:
            folder.rename(final)
        except OSError as error:  # another run was faster
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        else:
            return final
    raise AssertionError  # pragma: no cover  # numbers do not end


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
