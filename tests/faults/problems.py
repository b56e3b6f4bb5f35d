"""What the faulty nets and their twins learn: Gaussian blobs, two noisy circles, handwritten digits."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tests.quiet.data import ROOT, seeded

STEPS = 320  # of every run: a run is called flat after 200 of them at the earliest


@dataclasses.dataclass(frozen=True)
class Problem:
    """Classes to be told apart by features of mean 0 and deviation 1.

    Attributes:
        name: of the data.
        features: of a sample.
        outputs: one per class, or a single one for two classes.
        batch_size: of the training batches.
        lr: at which SGD with momentum .9 learns it well.
        make: gives training and validation data.
    """

    name: str
    features: int
    outputs: int
    batch_size: int
    lr: float
    make: Callable[[], tuple[TensorDataset, TensorDataset]]

    def data(self) -> tuple[TensorDataset, TensorDataset]:
        return self.make()

    @property
    def epochs(self) -> int:
        return math.ceil(STEPS / (len(self.data()[0]) // self.batch_size))

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The one that belongs to it."""
        if self.outputs == 1:
            return F.binary_cross_entropy_with_logits(outputs.squeeze(-1), y.float())
        return F.cross_entropy(outputs, y)

    def accuracy(self, outputs: Tensor, y: Tensor) -> Tensor:
        guesses = outputs.squeeze(-1) > 0 if self.outputs == 1 else outputs.argmax(-1)
        return (guesses == y).float().mean()

    def loader(self, data: TensorDataset, *, shuffle: bool = True) -> DataLoader:
        return DataLoader(data, self.batch_size, shuffle=shuffle, drop_last=True, generator=seeded(0))


@functools.cache
def _blobs() -> tuple[TensorDataset, TensorDataset]:
    generator = seeded(3)
    centres = torch.randn(5, 8, generator=generator)
    y = torch.randint(5, (4096,), generator=generator)
    x = centres[y] + 0.8 * torch.randn(len(y), 8, generator=generator)
    return _split(x, y)


@functools.cache
def _circles() -> tuple[TensorDataset, TensorDataset]:
    generator = seeded(4)
    y = torch.randint(2, (4096,), generator=generator)
    angle = 2 * math.pi * torch.rand(len(y), generator=generator)
    x = torch.stack([angle.cos(), angle.sin()], 1) * (1 - 0.5 * y[:, None])
    return _split(x + 0.1 * torch.randn(x.shape, generator=generator), y)


def _split(x: Tensor, y: Tensor, train: int = 2048) -> tuple[TensorDataset, TensorDataset]:
    x = (x - x.mean(0)) / x.std(0)
    return TensorDataset(x[:train], y[:train]), TensorDataset(x[train:], y[train:])


@functools.cache
def _digits() -> Any:
    demos = str(ROOT / "demos")
    if demos not in sys.path:
        sys.path.append(demos)
    from mnist_data import load_digits

    return load_digits(mirrors=())  # MNIST where it lies on this machine, else scikit-learn's digits


def has_mnist() -> bool:
    return _digits().is_mnist


@functools.cache
def _mnist() -> tuple[TensorDataset, TensorDataset]:
    found = _digits()
    parts = found.train.first(5120), found.test.first(1024)
    train, val = (F.adaptive_avg_pool2d(part.images, 14).flatten(1) for part in parts)
    mean, std = train.mean(), train.std()
    return tuple(TensorDataset((x - mean) / std, part.labels) for x, part in zip((train, val), parts, strict=True))


BLOBS = Problem("blobs", features=8, outputs=5, batch_size=32, lr=0.015, make=_blobs)
CIRCLES = Problem("circles", features=2, outputs=1, batch_size=32, lr=0.05, make=_circles)
MNIST = Problem("mnist", features=196, outputs=10, batch_size=64, lr=0.02, make=_mnist)
PROBLEMS = (BLOBS, CIRCLES, MNIST)
