"""A classifier and a regressor whose data the sick twin spoils."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.helpers import CLASSES, TinyModule, blobs

Spoil = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def as_they_are(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Nothing is spoilt."""
    return x, y


class Classifier(TinyModule):
    """An MLP on :func:`blobs`, of which ``spoil(x, y)`` makes the training data.

    Args:
        spoil: makes other inputs and labels of them.
        shuffle: the training data, with a generator of their own.
        settings: of :class:`TinyModule`.
    """

    def __init__(self, spoil: Spoil = as_they_are, *, shuffle: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.spoil, self.shuffle = spoil, shuffle

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def dataset(self) -> Dataset[Any]:
        return TensorDataset(*self.spoil(*blobs(self.batches * self.batch_size, self.shape, seed=self.seed).tensors))

    def train_dataloader(self) -> DataLoader[Any]:
        order = torch.Generator().manual_seed(0)
        return DataLoader(self.dataset(), batch_size=self.batch_size, shuffle=self.shuffle, generator=order)


class Regressor(Classifier):
    """The sum of the first inputs, by an MLP with one output."""

    def __init__(self, spoil: Spoil = as_they_are, **settings: Any) -> None:
        super().__init__(spoil, lr=0.01, **settings)

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def dataset(self) -> Dataset[Any]:
        x, _ = blobs(self.batches * self.batch_size, self.shape, seed=self.seed).tensors
        return TensorDataset(*self.spoil(x, x[:, :2].sum(1, keepdim=True)))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.mse_loss(self(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_mean", self(batch[0]).mean())
