"""LT508: noisy gradients at a rate that never comes down, and the same with a cosine."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from tests.cases.case import Case, Run
from tests.helpers import TinyModule

EPOCHS = 15


def noisy_lines(samples: int, seed: int) -> TensorDataset:
    """A linear function of eight inputs, under noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 8, generator=generator)
    return TensorDataset(x, x.sum(1, keepdim=True) / 3 + torch.randn(samples, 1, generator=generator))


class Line(TinyModule):
    """Linear regression in small batches."""

    def __init__(self, *, decays: bool) -> None:
        super().__init__(lr=0.01, batch_size=8, batches=64)
        self.decays = decays

    def build(self) -> nn.Module:
        return nn.Linear(8, 1)

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=self.lr, momentum=0.9)
        if not self.decays:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": CosineAnnealingLR(optimizer, EPOCHS)}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self(batch[0]), batch[1]))

    def train_dataloader(self) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(0)
        data = noisy_lines(self.batches * self.batch_size, seed=1)
        return DataLoader(data, batch_size=self.batch_size, shuffle=True, generator=generator)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(noisy_lines(256, seed=2), batch_size=64)


CASES = [
    Case(
        code="LT508",
        sick=Run(lambda: Line(decays=False), trainer={"max_epochs": EPOCHS}),
        healthy=Run(lambda: Line(decays=True), trainer={"max_epochs": EPOCHS}),
        where="",
        severity="info",
    ),
]
