"""LT307: four samples at once in a run that goes nowhere; and an epoch that ends with a batch of one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule, blobs


class Norms(TinyModule):
    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES))


class Noise(Norms):
    """Labels that have nothing to do with the inputs: whoever learns nothing asks why."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(1e-4, batches=240, batch_size=batch_size)

    def train_dataloader(self) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(0)
        samples = self.batches * self.batch_size
        data = TensorDataset(
            torch.randn(samples, 8, generator=generator), torch.randint(CLASSES, (samples,), generator=generator)
        )
        return DataLoader(data, batch_size=self.batch_size, shuffle=True)


class Leftover(Norms):
    """Four batches of 16 and what is left."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.samples = samples

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(blobs(self.samples, self.shape, seed=self.seed), batch_size=16, shuffle=True)


CASES = [
    Case(
        "LT307",
        Run(lambda: Noise(4), trainer={"limit_val_batches": 0}),
        Run(lambda: Norms(batches=240), trainer={"limit_val_batches": 0}),
        where="net.1",
        severity="warning",
        also={"LT801": "it learns nothing"},
    ),
    Case(
        "LT307",
        Run(lambda: Norms(batch_size=8)),
        Run(lambda: Norms(batch_size=16)),
        where="net.1",
        severity="info",
        name="unknown yet",
    ),
    Case(
        "LT307",
        Run(lambda: Leftover(65), ends_with=ValueError),
        Run(lambda: Leftover(64)),
        where="train_dataloader",
        severity="error",
        name="leftover",
    ),
]
