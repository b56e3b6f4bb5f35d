"""What the nets learn from: digits, the text of the licence, and small generated problems. All of it is seeded."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

ROOT = Path(__file__).resolve().parents[2]
TRAIN, VAL = 1280, 320  # scikit-learn's digits, the ones that are always there, are just enough for this


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache
def _whole_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    demos = str(ROOT / "demos")
    if demos not in sys.path:
        sys.path.append(demos)
    from mnist_data import load_digits

    found = load_digits(mirrors=())  # MNIST where it lies on this machine, else scikit-learn's digits
    train, val = found.train.first(TRAIN), found.test.first(VAL)
    return train.images.clone(), train.labels.clone(), val.images.clone(), val.labels.clone()


@functools.cache
def digits(size: int = 14) -> tuple[TensorDataset, TensorDataset]:
    """1280 training and 320 validation images ``[1, size, size]`` of mean 0 and deviation 1, with their classes."""
    train, train_labels, val, val_labels = _whole_digits()
    if size != train.shape[-1]:
        train, val = (F.adaptive_avg_pool2d(images, size) for images in (train, val))
        mean, std = train.mean(), train.std()
        train, val = (train - mean) / std, (val - mean) / std
    return TensorDataset(train, train_labels), TensorDataset(val, val_labels)


def unit_digits(size: int = 14) -> tuple[TensorDataset, TensorDataset]:
    """The same images as grey values from 0 to 1, without their classes."""
    train, val = digits(size)
    low, high = train.tensors[0].min(), train.tensors[0].max()
    return tuple(TensorDataset(((part.tensors[0] - low) / (high - low)).clamp(0, 1)) for part in (train, val))


def loaders(datasets: tuple[Dataset, Dataset], batch_size: int = 64, *, seed: int = 0) -> tuple[DataLoader, DataLoader]:
    """Shuffled batches to train on, and one of everything to validate on."""
    train, val = datasets
    return (
        DataLoader(train, batch_size, shuffle=True, drop_last=True, generator=seeded(seed)),
        DataLoader(val, len(val)),
    )


def digit_loaders(size: int = 14, batch_size: int = 64) -> tuple[DataLoader, DataLoader]:
    return loaders(digits(size), batch_size)


def split(*tensors: Tensor, train: int) -> tuple[TensorDataset, TensorDataset]:
    """The first ``train`` samples, and the others."""
    return TensorDataset(*(t[:train] for t in tensors)), TensorDataset(*(t[train:] for t in tensors))


@functools.cache
def text() -> tuple[Tensor, int]:
    """The licence as character indices, and the number of characters that it uses."""
    content = " ".join((ROOT / "LICENSE").read_text().lower().split())
    alphabet = sorted(set(content))
    return torch.tensor([alphabet.index(character) for character in content]), len(alphabet)


def text_windows(length: int, stride: int = 5) -> tuple[TensorDataset, TensorDataset]:
    """Overlapping windows of the text to train on; windows of its last tenth to validate on."""
    ids, _ = text()
    cut = len(ids) * 9 // 10
    return TensorDataset(ids[:cut].unfold(0, length, stride)), TensorDataset(ids[cut:].unfold(0, length, length))
