"""LT511: a linear regression whose rate is eight times what its inputs bear. Clipping keeps it from breaking."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tuning import StabilityProbe
from tests.cases.case import Case, Run


class Regression(pl.LightningModule):
    """The sharpness is that of the inputs: twice the largest eigenvalue of their second moments, 2 here."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Linear(4, 1)
        nn.init.normal_(self.net.weight, std=0.01)
        nn.init.zeros_(self.net.bias)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.mse_loss(self.net(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.5)

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(640, 4, generator=generator)
        y = x @ torch.tensor([[0.4], [-0.3], [0.2], [0.1]]) + 0.1 * torch.randn(640, 1, generator=generator)
        return DataLoader(TensorDataset(x, y), batch_size=32)


def run(lr: float) -> Run:
    return Run(
        lambda: Regression(lr),
        trainer={"max_epochs": 15, "gradient_clip_val": 1.0},
        callbacks=lambda: [StabilityProbe(every_n_steps=20)],
    )


CASES = [
    Case(
        code="LT511",
        sick=run(8.0),
        healthy=run(0.1),
        where="SGD group 0",
        severity="warning",
        also={"LT408": "the rate is above SGD's band", "LT413": "nor does it warm up", "LT801": "it learns nothing"},
    )
]
