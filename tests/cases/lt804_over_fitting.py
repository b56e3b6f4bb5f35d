"""LT804: forty samples with labels that are half noise, learned by heart; and as many as the net needs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.cases.case import Case, Run
from tests.helpers import TinyModule, blobs

EPOCHS = {"max_epochs": 20}


class ByHeart(TinyModule):
    """A wide net on blobs of which a third has a wrong label.

    Args:
        samples: to train on.
        metric: logs accuracies as well.
    """

    def __init__(self, samples: int, *, metric: bool = False) -> None:
        super().__init__(lr=0.01)
        self.samples, self.metric = samples, metric

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 3))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        if self.metric:
            accuracy = (logits.argmax(-1) == y).float().mean()
            self.log("train_acc", accuracy, on_step=False, on_epoch=True)
        return F.cross_entropy(logits, y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        if self.metric:
            self.log("val_acc", (logits.argmax(-1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> DataLoader[Any]:
        order = torch.Generator().manual_seed(0)
        return DataLoader(spoilt(self.samples, 0), batch_size=16, shuffle=True, generator=order)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(spoilt(256, 1), batch_size=64)


def spoilt(samples: int, seed: int) -> TensorDataset:
    x, y = blobs(samples, seed=seed).tensors
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(samples, generator=generator) < 1 / 3
    return TensorDataset(x, torch.where(wrong, torch.randint(3, (samples,), generator=generator), y))


CASES = [
    Case(
        code="LT804",
        sick=Run(lambda: ByHeart(48), trainer=EPOCHS),
        healthy=Run(lambda: ByHeart(640), trainer={"max_epochs": 8}),
        where="",
        severity="warning",
    ),
    Case(
        code="LT804",
        name="accuracy",
        sick=Run(lambda: ByHeart(48, metric=True), trainer=EPOCHS),
        healthy=Run(lambda: ByHeart(640, metric=True), trainer={"max_epochs": 8}),
        where="",
        severity="warning",
    ),
]
