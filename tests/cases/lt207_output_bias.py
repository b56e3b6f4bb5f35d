"""LT207: one positive in twenty, and a bias that begins at even odds."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.cases._initialised import Initialised
from tests.cases.case import Case, Run

SHARE = 0.05


class Rare(Initialised):
    """Tells one rare class from the rest, by a logit."""

    def __init__(self, bias: float) -> None:
        super().__init__(lambda net: nn.init.constant_(net[2].bias, bias), batches=4, batch_size=256)

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy_with_logits(self(x).squeeze(1), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", F.binary_cross_entropy_with_logits(self(x).squeeze(1), y))

    def train_dataloader(self) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(self.seed)
        y = (torch.rand(self.batches * self.batch_size, generator=generator) < SHARE).float()
        x = torch.randn(len(y), 8, generator=generator) + y[:, None]
        return DataLoader(TensorDataset(x, y), batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.train_dataloader()


CASES = [
    Case(
        code="LT207",
        sick=Run(lambda: Rare(0.0)),
        healthy=Run(lambda: Rare(math.log(SHARE / (1 - SHARE)))),
        where="net.2",
        severity="info",
    ),
]
