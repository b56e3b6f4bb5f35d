from __future__ import annotations

import gzip
import hashlib
import struct
import sys
from pathlib import Path

import mnist_data
import pytest
import torch
from mnist_data import Batches, DataError, Split, download, load_digits, read_idx

FOLDER = next((f for f in mnist_data.FOLDERS if (f / "train-images-idx3-ubyte.gz").is_file()), None)


def idx(values: torch.Tensor) -> bytes:
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + bytes(values.flatten().tolist())


def tiny_mnist() -> dict[str, bytes]:
    """Four IDX files like MNIST's, of 24 training and 8 test images."""
    generator = torch.Generator().manual_seed(0)
    files = {}
    for part, count in (("train", 24), ("t10k", 8)):
        files[f"{part}-images-idx3-ubyte"] = idx(torch.randint(256, (count, 28, 28), generator=generator))
        files[f"{part}-labels-idx1-ubyte"] = idx(torch.arange(count) % 10)
    return files


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder as a mirror has it, and the checksums of its files in place of MNIST's."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    checksums = {}
    for name, content in tiny_mnist().items():
        packed = gzip.compress(content, mtime=0)
        (folder / f"{name}.gz").write_bytes(packed)
        checksums[name] = hashlib.sha256(packed).hexdigest()
    monkeypatch.setattr(mnist_data, "SHA256", checksums)
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (0, 28, 28)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_read_idx_gives_the_bytes_in_their_shape(tmp_path, shape, pack):
    values = torch.arange(torch.Size(shape).numel()).view(shape) % 256
    path = tmp_path / "file"
    path.write_bytes(pack(idx(values)))
    read = read_idx(path)
    assert read.dtype is torch.uint8
    assert read.shape == shape
    assert read.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "starts with nothing"),
        (b"\x00\x00\x08", "no IDX file"),
        (b"<html>not here</html>", "starts with 3c 68 74 6d"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x00\x00", "no IDX file of unsigned bytes"),  # floats
        (b"\x00\x00\x08\x00", "no IDX file"),  # no dimensions
        (b"\x00\x00\x08\x03\x00\x00\x00\x01", "no IDX file"),  # the header itself is cut short
        (idx(torch.zeros(2, 3, dtype=torch.int))[:-1], r"5 bytes of data where its header \[2, 3\] promises 6"),
        (idx(torch.zeros(2, 3, dtype=torch.int)) + b"\x00", "7 bytes of data"),
        (gzip.compress(idx(torch.zeros(50, dtype=torch.int)), mtime=0)[:-9], "delete it to have it downloaded again"),
        (gzip.compress(b"a", mtime=0)[:-8] + bytes(8), "is broken"),  # checksum of gzip
        (b"\x1f\x8b" + bytes(30), "is broken"),
    ],
    ids=[
        "empty",
        "short",
        "html",
        "floats",
        "no dimensions",
        "cut header",
        "cut",
        "long",
        "cut gz",
        "bad sum",
        "bad gz",
    ],
)
def test_read_idx_refuses_what_is_broken_and_names_it(tmp_path, content, complaint):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=complaint) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_download_fetches_what_is_missing_and_nothing_else(tmp_path, published, serve):
    folder = tmp_path / "new" / "mnist"
    mirror = serve(published)
    download(folder, mirrors=[mirror])
    assert names(folder) == names(published)
    kept = folder / "t10k-labels-idx1-ubyte.gz"
    kept.write_bytes(b"mine")
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    download(folder, mirrors=[mirror])
    assert kept.read_bytes() == b"mine"
    assert (folder / "train-labels-idx1-ubyte.gz").read_bytes() == (
        published / "train-labels-idx1-ubyte.gz"
    ).read_bytes()


def test_download_refuses_a_wrong_checksum_and_leaves_nothing_behind(tmp_path, published, serve):
    (published / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: sha256 is \w+\.\.\., expected \w+\.\.\."):
        download(tmp_path / "mnist", mirrors=[serve(published)])
    assert names(tmp_path / "mnist") == set()


def test_download_goes_to_the_next_mirror(tmp_path, published, serve):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "train-images-idx3-ubyte.gz").write_bytes(b"something else")
    download(tmp_path / "mnist", mirrors=["http://127.0.0.1:9/", serve(wrong), serve(published)])
    assert names(tmp_path / "mnist") == names(published)


def test_download_does_not_wait_for_a_mirror_that_is_silent(tmp_path, published, serve):
    download(tmp_path / "mnist", mirrors=[serve(None), serve(published)], timeout=0.2)
    assert names(tmp_path / "mnist") == names(published)


def test_download_says_what_every_mirror_answered(tmp_path, published, serve):
    (published / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"(?s)127\.0\.0\.1:9/.*refused.*;.*HTTP Error 404"):
        download(tmp_path / "mnist", mirrors=["http://127.0.0.1:9/", serve(published)])


def test_a_file_that_cannot_be_finished_leaves_nothing_behind(tmp_path, published, serve, monkeypatch):
    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        download(tmp_path / "mnist", mirrors=[serve(published)])
    assert names(tmp_path / "mnist") == set()


@pytest.mark.parametrize("packed", [True, False])
def test_load_digits_reads_a_folder_gzipped_or_not(tmp_path, packed):
    for name, content in tiny_mnist().items():
        if packed:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (tmp_path / name).write_bytes(content)
    digits = load_digits(tmp_path, mirrors=())
    assert digits.is_mnist
    assert str(tmp_path) in digits.source
    assert [len(split) for split in (digits.train, digits.val, digits.test)] == [22, 2, 8]
    assert digits.train.images.shape == (22, 1, 28, 28)
    assert digits.train.labels.tolist() == [i % 10 for i in range(22)]
    torch.testing.assert_close(digits.train.images.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(digits.train.images.std(), torch.tensor(1.0))


def test_load_digits_takes_the_first_folder_that_has_all_files(tmp_path, published, monkeypatch):
    incomplete = tmp_path / "incomplete"
    incomplete.mkdir()
    (incomplete / "train-images-idx3-ubyte.gz").write_bytes(b"")
    monkeypatch.setattr(mnist_data, "FOLDERS", (incomplete, published))
    assert load_digits(mirrors=()).source == f"MNIST from {published}"


def test_load_digits_downloads_into_the_first_folder(tmp_path, published, serve, monkeypatch):
    monkeypatch.setattr(mnist_data, "FOLDERS", (tmp_path / "first", tmp_path / "second"))
    assert load_digits(mirrors=[serve(published)]).source == f"MNIST from {tmp_path / 'first'}"
    assert names(tmp_path / "first") == names(published)


def test_a_broken_file_is_an_error_and_no_reason_for_other_data(tmp_path, published):
    (published / "t10k-labels-idx1-ubyte.gz").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is no IDX file"):
        load_digits(published, mirrors=())


def test_images_and_labels_that_do_not_belong_together_are_an_error(tmp_path, published):
    (published / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(torch.zeros(7, dtype=torch.int))))
    with pytest.raises(DataError, match=r"images \[8, 28, 28\] with labels \[7\]"):
        load_digits(published, mirrors=())


def test_without_files_and_network_it_is_the_digits_of_scikit_learn_and_says_so(tmp_path):
    digits = load_digits(tmp_path / "none", mirrors=["http://127.0.0.1:9/"])
    assert not digits.is_mnist
    assert "scikit-learn" in digits.source
    assert "in place of MNIST" in digits.source
    assert "127.0.0.1:9" in digits.source
    splits = digits.train, digits.val, digits.test
    assert sum(map(len, splits)) == 1797
    assert all(split.images.shape[1:] == (1, 28, 28) for split in splits)
    assert all(split.labels.unique().tolist() == list(range(10)) for split in splits)


def test_a_folder_that_cannot_be_written_is_no_reason_to_give_up(tmp_path, published, serve):
    (tmp_path / "file").write_bytes(b"")
    digits = load_digits(tmp_path / "file" / "mnist", mirrors=[serve(published)])
    assert not digits.is_mnist
    assert "Not a directory" in digits.source


def test_without_scikit_learn_there_is_nothing_left(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"no mirrors given.*scikit-learn.*is not installed"):
        load_digits(tmp_path / "none", mirrors=())


@pytest.mark.skipif(FOLDER is None, reason="the four files of MNIST are not on this machine")
def test_the_checksums_are_those_of_mnist():
    found = {name: hashlib.sha256((FOLDER / f"{name}.gz").read_bytes()).hexdigest() for name in mnist_data.SHA256}
    assert found == mnist_data.SHA256


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 24])
def test_batches_in_order_go_through_everything(samples):
    split = Split(torch.arange(samples).view(-1, 1, 1, 1), torch.arange(samples))
    batches = list(Batches(split, 8))
    assert len(batches) == len(Batches(split, 8))
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(samples))
    assert all(torch.equal(images.flatten(), labels) for images, labels in batches)


@pytest.mark.parametrize(("samples", "whole"), [(5, 1), (8, 1), (23, 2), (24, 3)])
def test_shuffled_batches_are_whole_reproducible_and_new_in_every_epoch(samples, whole):
    split = Split(torch.zeros(samples, 1, 1, 1), torch.arange(samples))

    def epochs() -> list[list[int]]:
        batches = Batches(split, 8, shuffle_seed=3)
        assert len(batches) == whole
        return [torch.cat([labels for _, labels in batches]).tolist() for _ in range(2)]

    first, second = epochs()
    assert [first, second] == epochs()
    assert first != second
    assert len(set(first)) == len(first) == min(samples, 8 * whole)


def test_first_is_everything_where_there_is_less():
    split = Split(torch.zeros(5, 1, 28, 28), torch.arange(5))
    assert split.first(3).labels.tolist() == [0, 1, 2]
    assert len(split.first(9)) == 5
