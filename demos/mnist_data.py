"""MNIST in memory: from IDX files, from a mirror, or, without files and network, scikit-learn's real digits.

LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition": 60 000 training and
10 000 test images of handwritten digits, 28 x 28 grey values, in the IDX format.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.client
import math
import os
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
DOWNLOADED = ROOT / "data" / "mnist"
FOLDERS = (DOWNLOADED, ROOT.parent / "shared" / "data" / "mnist")

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
SHA256 = {  # of the .gz files, the same on every mirror
    "train-images-idx3-ubyte": "71524e2cd1ad2968737f7f2f2ff69cbfc32df8ccddff51593f7cb2d4e0eb5b64",
    "train-labels-idx1-ubyte": "fe03b8bd7915f70bf5aa08be480aa413fbd85afcaa58b35d230d335f284fd88e",
    "t10k-images-idx3-ubyte": "5634745efa576a17e7d4cf5cd9d09123c75e6538e5114267c2d156edaf519341",
    "t10k-labels-idx1-ubyte": "ae18e77e031ccde52407f794d123116439864147d33ac992975f85dd4dc42af6",
}
TIMEOUT = 10.0  # seconds without an answer before the next mirror is tried

_UBYTE = 0x08  # the IDX code of the only element type that MNIST uses


class DataError(RuntimeError):
    """A file of the data set is missing, broken or not what its checksum promises."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Images ``[N, 1, 28, 28]`` and their classes ``[N]``; float32, mean 0 and deviation 1 over the training images."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Split:
        """The first ``count`` samples, or all where there are fewer."""
        return Split(self.images[:count], self.labels[:count])


@dataclasses.dataclass(frozen=True)
class Digits:
    """Training, validation and test images, and where they come from."""

    train: Split
    val: Split
    test: Split
    source: str
    is_mnist: bool = True


class Batches:
    """Slices of a split that lies in memory: an index per batch instead of a Python call per image.

    A ``DataLoader`` fetches 128 images one by one and stacks them, which takes longer than a step of these nets.

    Args:
        split: what to go through.
        batch_size: samples per batch.
        shuffle_seed: shuffles anew in every epoch, reproducibly, and drops the incomplete last batch; ``None``
            (default) goes through everything in order.
    """

    def __init__(self, split: Split, batch_size: int, *, shuffle_seed: int | None = None) -> None:
        self.split, self.batch_size = split, batch_size
        self._generator = None if shuffle_seed is None else torch.Generator().manual_seed(shuffle_seed)

    def __len__(self) -> int:
        whole = len(self.split) / self.batch_size
        return math.ceil(whole) if self._generator is None else max(1, math.floor(whole))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        samples = len(self.split)
        order = torch.arange(samples) if self._generator is None else torch.randperm(samples, generator=self._generator)
        for chosen in order.split(self.batch_size)[: len(self)]:
            yield self.split.images[chosen], self.split.labels[chosen]


def load_digits(data_dir: Path | None = None, *, mirrors: Sequence[str] = MIRRORS, timeout: float = TIMEOUT) -> Digits:
    """MNIST from ``data_dir``, or from where it usually lies, or downloaded; else the digits that scikit-learn brings.

    Args:
        data_dir: folder of the four IDX files, gzipped or not; they are downloaded into it if they are not there. By
            default the first of :data:`FOLDERS` that has them, and :data:`DOWNLOADED` for the download.
        mirrors: addresses of folders that hold the four ``.gz`` files, tried in this order.
        timeout: see :func:`download`.

    Raises:
        DataError: if a file is there but broken, or if nothing can be had at all.
    """
    folders = FOLDERS if data_dir is None else (data_dir,)
    folder = next((f for f in folders if all(_file(f, name) for name in SHA256)), None)
    if folder is None:
        folder = folders[0]
        try:
            download(folder, mirrors=mirrors, timeout=timeout)
        except (DataError, OSError) as error:
            return _digits_of_sklearn(f"No MNIST in {', '.join(map(str, folders))}, and no download: {error}")
    return _read_mnist(folder)


def download(folder: Path, *, mirrors: Sequence[str] = MIRRORS, timeout: float = TIMEOUT) -> None:
    """Fetch the files that ``folder`` lacks, each from the first of ``mirrors`` that has it.

    A file appears in ``folder`` only whole and with the right checksum.

    Args:
        folder: made if it does not exist.
        mirrors: addresses ending in a slash.
        timeout: seconds without an answer before the next mirror is tried.

    Raises:
        DataError: if a file cannot be had from any mirror; says why for each.
        OSError: if ``folder`` cannot be written.
    """
    for name, sha256 in SHA256.items():
        if _file(folder, name):
            continue
        refusals = []
        for mirror in mirrors:
            url = f"{mirror}{name}.gz"
            try:
                content = _fetch(url, sha256, timeout)
            except (OSError, http.client.HTTPException, DataError) as error:
                refusals.append(f"{url}: {error or type(error).__name__}")
            else:
                _write_whole(folder / f"{name}.gz", content)
                break
        else:
            raise DataError("; ".join(refusals) or "no mirrors given")


def read_idx(path: Path) -> Tensor:
    """The unsigned bytes of an IDX file, gzipped or not, in the shape that its header gives.

    Raises:
        DataError: if it is no IDX file of unsigned bytes, is cut short, or holds more than its header says.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is broken ({error}); delete it to have it downloaded again.") from error
    dimensions = content[3] if len(content) > 3 else 0
    header = 4 + 4 * dimensions
    if content[:3] != bytes([0, 0, _UBYTE]) or not 1 <= dimensions <= 3 or len(content) < header:
        raise DataError(f"{path} is no IDX file of unsigned bytes: it starts with {content[:4].hex(' ') or 'nothing'}.")
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path} has {len(content) - header} bytes of data where its header {shape} promises {math.prod(shape)}; "
            "delete it to have it downloaded again."
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:].view(shape)


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _fetch(url: str, sha256: str, timeout: float) -> bytes:
    with urllib.request.urlopen(url, timeout=timeout) as answer:  # noqa: S310 - one of our mirrors
        content: bytes = answer.read()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(f"sha256 is {found[:12]}..., expected {sha256[:12]}...")
    return content


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _read_mnist(folder: Path) -> Digits:
    tensors = {}
    for name in SHA256:
        path = _file(folder, name)
        assert path is not None  # noqa: S101 - looked for, or downloaded, a moment ago
        tensors[name] = read_idx(path)
    train, test = (
        _same_length(folder, tensors[f"{part}-images-idx3-ubyte"], tensors[f"{part}-labels-idx1-ubyte"])
        for part in ("train", "t10k")
    )
    return _standardised(*train, *test, source=f"MNIST from {folder}")


def _same_length(folder: Path, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(f"{folder} holds images {list(images.shape)} with labels {list(labels.shape)}.")
    return images, labels


def _digits_of_sklearn(why: str) -> Digits:
    try:
        from sklearn.datasets import load_digits as load  # noqa: PLC0415 - only where nothing else is left
    except ImportError as error:
        raise DataError(f"{why} (scikit-learn, whose digits would do, is not installed.)") from error
    bundled = load()
    small = torch.from_numpy(bundled.images).float().unsqueeze(1)  # [1797, 1, 8, 8], 0 ... 16
    images = F.interpolate(small, size=(28, 28), mode="bilinear")[:, 0] * (255 / 16)
    labels = torch.from_numpy(bundled.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))  # the file goes writer by writer
    train, test = order[:1437], order[1437:]
    source = f"scikit-learn's 1797 digits of 8 x 8 pixels, enlarged, in place of MNIST. {why}"
    return dataclasses.replace(
        _standardised(images[train], labels[train], images[test], labels[test], source=source), is_mnist=False
    )


def _standardised(images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor, *, source: str) -> Digits:
    """Scaled by the mean and deviation of the training images; the last twelfth of these validates (5000 of 60 000)."""
    fit = len(images) - len(images) // 12
    scaled = images.unsqueeze(1).float()
    mean, std = scaled[:fit].mean(), scaled[:fit].std()
    scaled = (scaled - mean) / std
    labels = labels.long()
    return Digits(
        Split(scaled[:fit], labels[:fit]),
        Split(scaled[fit:], labels[fit:]),
        Split((test_images.unsqueeze(1).float() - mean) / std, test_labels.long()),
        source,
    )
