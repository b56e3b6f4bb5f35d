"""LT904: a run that gets nowhere, and that nobody can repeat."""

from __future__ import annotations

import os

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, Mlp


class Noise(Mlp):
    """Noise that depends on no global seed, with nothing in it to be learned; nobody knows what its loss should be."""

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, y = batch
        return F.multi_margin_loss(self(x), y)

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        samples, generator = 240 * 16, torch.Generator().manual_seed(1)
        labels = torch.randint(CLASSES, (samples,), generator=generator)
        data = TensorDataset(torch.randn(samples, 8, generator=generator), labels)
        return DataLoader(data, batch_size=16, shuffle=True, generator=generator)


def seeded() -> Noise:
    pl.seed_everything(3, verbose=False)
    return Noise(0.0001)


def unseeded() -> Noise:
    os.environ.pop("PL_GLOBAL_SEED", None)
    torch.seed()  # what torch does by itself when a process begins
    return Noise(0.0001)


CASES = [Case(code="LT904", sick=Run(unseeded), healthy=Run(seeded), where="", severity="info")]
