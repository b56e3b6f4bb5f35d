"""A folder that is whole or not there: names, leftovers, full disks, damage, and files that want to be executed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_tuning import NanLossGuard, TuningError
from lightning_tuning.guards.bundle import BundleError, read_bundle
from lightning_tuning.guards.bundle._contents import FILES
from lightning_tuning.guards.bundle._folder import MANIFEST, _seal, clean_up, write_folder
from tests.guards.faulty import FaultyMlp
from tests.helpers import quiet_trainer

HERE = Path("bundles")
NEVER = "0" * 32


def fill(folder: Path) -> None:
    (folder / "one.txt").write_text("1")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    with pytest.raises(TuningError):
        quiet_trainer(callbacks=[NanLossGuard(bundle_dir=folder)]).fit(FaultyMlp({1: "log"}))
    (path,) = folder.iterdir()
    return path


@pytest.fixture
def path(written: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(written, HERE / written.name))


def reseal(path: Path) -> None:
    """Make the hashes right again, as whoever means harm would."""
    (path / MANIFEST).unlink()
    _seal(path)


# -- written ----------------------------------------------------------------------------------------------------------


def test_nothing_that_exists_is_overwritten() -> None:
    (HERE / "empty").mkdir(parents=True)
    (HERE / "file").write_text("mine")
    assert write_folder(HERE, "a", fill) == HERE / "a"
    (HERE / "a" / "one.txt").write_text("changed")
    assert [write_folder(HERE, name, fill).name for name in ("a", "a", "empty", "file")] == [
        "a.2",
        "a.3",
        "empty.2",
        "file.2",
    ]
    assert (HERE / "a" / "one.txt").read_text() == "changed"
    assert sorted(path.name for path in (HERE / "a.2").iterdir()) == [MANIFEST, "one.txt"]
    assert list((HERE / "empty").iterdir()) == []


def test_a_name_taken_at_the_last_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def taken(self: Path, target: Path) -> Path:
        if target.name == "a":
            target.mkdir()
            (target / "other").touch()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", taken)
    assert write_folder(HERE, "a", fill).name == "a.2"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_write_that_fails_leaves_nothing(number: int) -> None:
    def full(folder: Path) -> None:
        fill(folder)
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=os.strerror(number)):
        write_folder(HERE, "a", full)
    assert list(HERE.iterdir()) == []


# -- left behind ------------------------------------------------------------------------------------------------------


def leftover(name: str = f".unfinished-{NEVER}", mark: bytes | None = b"lightning-tuning-bundle") -> Path:
    folder = HERE / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"half")
    if mark is not None:
        (folder / ".writer").write_bytes(mark)
    return folder


@pytest.mark.parametrize("mark", [b"lightning-tuning-bundle", b""])
def test_what_a_killed_writer_left_is_removed(mark: bytes) -> None:
    assert clean_up(HERE) == []
    folder = leftover(mark=mark)
    assert clean_up(HERE) == [folder.name]
    assert list(HERE.iterdir()) == []


def test_an_empty_one_too() -> None:
    (HERE / f".unfinished-{NEVER}").mkdir(parents=True)
    assert len(clean_up(HERE)) == 1
    assert list(HERE.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        (f".unfinished-{NEVER}", b"of somebody else"),
        (f".unfinished-{NEVER}", None),
        (".unfinished-work", b"lightning-tuning-bundle"),
        (f"unfinished-{NEVER}", b"lightning-tuning-bundle"),
        ("step-1", b"lightning-tuning-bundle"),
    ],
)
def test_what_is_not_ours_stays(name: str, mark: bytes | None) -> None:
    folder = leftover(name, mark)
    assert clean_up(HERE) == []
    assert (folder / "model.safetensors").exists()


def test_another_users_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    leftover()
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert clean_up(HERE) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = leftover("precious")
    (HERE / f".unfinished-{NEVER}").symlink_to(target.absolute(), target_is_directory=True)
    assert clean_up(HERE) == []
    assert (target / "model.safetensors").exists()


def test_one_that_is_being_written_stays() -> None:
    folder = leftover()
    with (folder / ".writer").open("rb+") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        assert clean_up(HERE) == []
        assert (folder / "model.safetensors").exists()
    assert clean_up(HERE) == [folder.name]


def test_a_writer_holds_its_lock() -> None:
    def disturbed(folder: Path) -> None:
        fill(folder)
        assert clean_up(HERE) == []

    write_folder(HERE, "a", disturbed)
    assert [path.name for path in HERE.iterdir()] == ["a"]


def test_without_locks_nothing_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    leftover()
    monkeypatch.setattr(fcntl, "flock", none)
    assert clean_up(HERE) == []
    assert write_folder(HERE, "a", fill).name == "a"


def test_the_next_run_cleans_up() -> None:
    leftover()
    foreign = leftover(f".unfinished-{'1' * 32}", b"of somebody else")
    quiet_trainer(callbacks=[NanLossGuard(bundle_dir=HERE)], max_steps=1).fit(FaultyMlp())
    assert [path.name for path in HERE.iterdir()] == [foreign.name]


# -- damaged and foreign ----------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    """The one line with which a bundle is refused."""
    with pytest.raises(BundleError) as error:
        read_bundle(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", [*FILES])
def test_damage_is_told_by_the_files_name(path: Path, name: str) -> None:
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[:-1])
    assert refused(path) == f"the bundle is damaged: {name} has {len(whole) - 1} bytes of {len(whole)}."
    (path / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert refused(path) == f"the bundle is damaged: {name} is not what was written (SHA-256 differs)."
    (path / name).unlink()
    assert refused(path) == f"the bundle is damaged: {name} is missing."
    reseal(path)
    assert refused(path) == f"the bundle is damaged: {MANIFEST} does not list {name}."


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"format": "lightning-tuning-bu'])
def test_a_damaged_manifest(path: Path, content: bytes) -> None:
    (path / MANIFEST).write_bytes(content)
    assert refused(path) == f"the bundle is damaged: {MANIFEST} cannot be read."


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ([], "no bundle of lightning-tuning"),
        ({"format": "of another tool", "version": 1}, "no bundle of lightning-tuning"),
        ({"format": "lightning-tuning-bundle", "version": 2, "files": {}}, "format version 2; this"),
        ({"format": "lightning-tuning-bundle", "version": "x", "files": {}}, "format version 'x'"),
        ({"format": "lightning-tuning-bundle", "version": 1}, "lists no files"),
        ({"format": "lightning-tuning-bundle", "version": 1, "files": {"a": 1}}, "lists no files"),
        ({"format": "lightning-tuning-bundle", "version": 1, "files": {}}, "does not list finding.json"),
        ({"format": "lightning-tuning-bundle", "version": 1, "files": {"../x": {}}}, "'../x' is no name of a file"),
        ({"format": "lightning-tuning-bundle", "version": 1, "files": {"x": {}}}, "x is missing"),
    ],
)
def test_a_foreign_manifest(manifest: Any, said: str) -> None:
    HERE.mkdir()
    (HERE / MANIFEST).write_text(json.dumps(manifest))
    assert said in refused(HERE)


def test_no_bundle_at_all(path: Path) -> None:
    assert refused(Path("gone")) == "no bundle at 'gone': there is no such folder."
    assert refused(HERE) == f"'bundles' is no bundle: it has no manifest.json; in it there are {path.name}."
    assert refused(path / MANIFEST).startswith("no bundle at")
    unfinished = path.rename(HERE / f".unfinished-{NEVER}")
    assert "has not finished" in refused(unfinished)


@pytest.mark.parametrize("name", ["finding.json", "run.json"])
@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"finding": 3, "aliases": 3, "origin": {}}'])
def test_resealed_nonsense_is_still_one_line(path: Path, name: str, content: str) -> None:
    (path / name).write_text(content)
    reseal(path)
    assert refused(path).startswith("the bundle is damaged")


@pytest.mark.parametrize("name", ["module.pt", "optimizers.pt", "rng.pt", "batch.pt", "model.safetensors"])
@pytest.mark.parametrize("content", [[], {"others": 3}, {"cpu": 1, "devices": 2, "python": 3, "numpy": 4}])
def test_resealed_tensors_of_something_else(path: Path, name: str, content: Any) -> None:
    torch.save(content, path / name)
    reseal(path)
    if name == "batch.pt":  # which may hold anything
        assert read_bundle(path).batch() == content
    else:
        assert name in refused(path) or "lacks what it should hold" in refused(path)


class Malice:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


WAYS = {
    "pickle": lambda file: file.write_bytes(pickle.dumps(Malice())),
    "torch": lambda file: torch.save(Malice(), file),
    "torch of old": lambda file: torch.save({"state": Malice()}, file, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("name", [*FILES, "gradients.safetensors", MANIFEST])
@pytest.mark.parametrize("way", WAYS)
def test_pickled_code_is_never_executed(path: Path, name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    WAYS[way](path / name)
    if name != MANIFEST:
        reseal(path)
    if name == "report.txt":  # for people, never read
        assert read_bundle(path).finding.code == "LT701"
    else:
        line = refused(path)
        assert name in line
        assert "weights_only" not in line  # torch's advice on how to load it all the same
    assert not Path("executed").exists()


def test_the_malice_would_work() -> None:
    pickle.loads(pickle.dumps(Malice()))
    assert Path("executed").exists()


def test_what_a_newer_version_knew_besides_is_left_out(path: Path) -> None:
    content = json.loads((path / "finding.json").read_text())
    content["origin"]["certainty"] = 0.9
    content["finding"]["colour"] = "red"
    (path / "finding.json").write_text(json.dumps(content))
    reseal(path)
    origin = read_bundle(path).origin
    assert origin is not None
    assert (origin.cause, origin.op) == ("log-of-zero", "log")
