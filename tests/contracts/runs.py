"""Odd but healthy ways to train, that every callback has to bear: ``RUNS`` names them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from tests.helpers import CLASSES, Mlp, TinyModule, blobs


class LeavesEpoch(Mlp):
    """Ends epoch 0 by its own hook: at once, or in the middle."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if self.current_epoch == 0 and batch_idx == self.at else None


class NoLoss(Mlp):
    """Has nothing to say to some batches, the first among them."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return None if batch_idx in (0, 1, 5) else super().training_step(batch, batch_idx)


class NoBatch(Mlp):
    """The loader gives ``None`` for a batch of which nothing was left."""

    def train_dataloader(self) -> DataLoader[Any]:
        batches = iter(range(self.batches))

        def collate(samples: list[Any]) -> Any:
            return None if next(batches) in (0, 4) else torch.utils.data.default_collate(samples)

        return DataLoader(super().train_dataloader().dataset, batch_size=self.batch_size, collate_fn=collate)


class Stream(IterableDataset[Any]):
    """Data of unknown length."""

    def __init__(self, samples: int) -> None:
        self.data = blobs(samples)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data[i] for i in range(len(self.data)))


class Streaming(Mlp):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Stream(self.batches * self.batch_size), batch_size=self.batch_size)


class TwoLoaders(Mlp):
    """Two data sets of different length, one dict per batch."""

    def train_dataloader(self) -> dict[str, DataLoader[Any]]:
        return {
            name: DataLoader(blobs(batches * self.batch_size, seed=batches), batch_size=self.batch_size)
            for name, batches in (("long", self.batches), ("short", self.batches // 2))
        }

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return super().training_step(batch["long"], batch_idx) + super().training_step(batch["short"], batch_idx)


class ComplexNet(TinyModule):
    """A linear layer of complex64 weights, whose absolute values go on."""

    def __init__(self) -> None:
        super().__init__(0.03)

    def build(self) -> nn.Module:
        net = nn.ModuleDict({"head": nn.Linear(8, CLASSES)})
        net.register_parameter("turn", nn.Parameter(0.3 * torch.randn(8, 8, dtype=torch.complex64)))
        return net

    def forward(self, x: Tensor) -> Tensor:
        return self.net["head"]((x.to(torch.complex64) @ self.net.turn).abs())


class Wide(TinyModule):
    """Another architecture under the names of :class:`Mlp`: fewer layers, other sizes, no weight where that has one."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 40), nn.BatchNorm1d(40), nn.Tanh(), nn.Linear(40, CLASSES))


class Unused(TinyModule):
    """A part that no loss reaches, and one that is frozen."""

    def build(self) -> nn.Module:
        frozen = nn.Linear(8, 8).requires_grad_(False)
        return nn.ModuleDict({"frozen": frozen, "head": nn.Linear(8, CLASSES), "unused": nn.Linear(2, 2)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["head"](F.relu(self.net["frozen"](x)))


@dataclasses.dataclass(frozen=True)
class Run:
    """One of them, and the optimizer steps that it makes."""

    model: Callable[[], TinyModule]
    steps: int
    settings: Callable[[], dict[str, Any]] = dict


RUNS: dict[str, Run] = {
    "leaves epoch 0 at once": Run(lambda: LeavesEpoch(0), 8, lambda: {"max_epochs": 2}),
    "leaves epoch 0 in the middle": Run(lambda: LeavesEpoch(3), 11, lambda: {"max_epochs": 2}),
    "no loss for some batches": Run(NoLoss, 8),
    "no batch at times": Run(NoBatch, 6),
    "data of unknown length": Run(Streaming, 8),
    "two loaders": Run(TwoLoaders, 8),
    "accumulation": Run(Mlp, 3, lambda: {"accumulate_grad_batches": 3}),
    "accumulation by schedule": Run(
        Mlp, 6, lambda: {"max_epochs": 2, "callbacks": [GradientAccumulationScheduler({0: 2, 1: 4})]}
    ),
    "complex weights": Run(ComplexNet, 8),
    "double precision": Run(Mlp, 8, lambda: {"precision": "64-true"}),
    "unused and frozen weights": Run(Unused, 8),
}
