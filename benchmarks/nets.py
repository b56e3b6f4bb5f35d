"""Nets that are trained on fixed random batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader


class Synthetic(pl.LightningModule):
    """A classifier on fixed random batches: the work of a step without the work of loading data."""

    def __init__(self, net: nn.Module, shape: tuple[int, ...], batch_size: int) -> None:
        super().__init__()
        self.net, self.shape, self.batch_size = net, shape, batch_size

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: D102
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:  # noqa: D102
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    def batches(self, count: int) -> DataLoader[Any]:
        """``count`` batches, the same few again and again."""
        generator = torch.Generator().manual_seed(0)
        few = [
            (
                torch.randn(self.batch_size, *self.shape, generator=generator),
                torch.randint(10, (self.batch_size,), generator=generator),
            )
            for _ in range(8)
        ]
        return DataLoader([few[i % len(few)] for i in range(count)], batch_size=None)  # type: ignore[arg-type]


def mlp() -> Synthetic:
    """The MNIST MLP: 784-256-10, batch 128."""
    return Synthetic(nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)), (784,), 128)


def cnn() -> Synthetic:
    """Three blocks of convolution, batch norm, ReLU and pooling on 28 x 28 images, batch 64."""
    widths = (1, 16, 32, 64)
    blocks = [
        layer
        for i, o in itertools.pairwise(widths)
        for layer in (nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
    ]
    return Synthetic(nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64 * 9, 10)), (1, 28, 28), 64)


def transformer() -> Synthetic:
    """Six pre-norm encoder layers of width 64 on 32 tokens, batch 16."""
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    return Synthetic(nn.Sequential(encoder, nn.Flatten(), nn.Linear(32 * 64, 10)), (32, 64), 16)


MODELS: dict[str, Callable[[], Synthetic]] = {"mlp": mlp, "cnn": cnn, "transformer": transformer}
