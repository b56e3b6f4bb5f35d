"""LT323: statistics that never move (momentum 0, buffers put back), and statistics of other data than the batches'."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule, blobs


class Norm(TinyModule):
    def __init__(self, momentum: float = 0.1, *, batches: int = 24) -> None:
        self.momentum = [momentum]
        super().__init__(batches=batches)

    def build(self) -> nn.Module:
        norm = nn.BatchNorm1d(16, momentum=self.momentum[0])
        return nn.Sequential(nn.Linear(8, 16, bias=False), norm, nn.ReLU(), nn.Linear(16, CLASSES))


class PutBack(Norm):
    """Restores the buffers after each batch, as who wanted to keep loaded ones."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if not hasattr(self, "kept"):
            self.kept = [buffer.clone() for buffer in self.net[1].buffers()]
        with torch.no_grad():
            for buffer, kept in zip(self.net[1].buffers(), self.kept, strict=True):
                buffer.copy_(kept)


class Domains(Norm):
    """Batches of one domain each, in turn: shifted by +4, by -4; the running statistics are those of neither."""

    def __init__(self, *, mixed: bool) -> None:
        super().__init__(batches=80)
        self.mixed = mixed

    def train_dataloader(self) -> DataLoader[Any]:
        x, y = blobs(self.batches * self.batch_size, self.shape, seed=self.seed).tensors
        period = 2 if self.mixed else 2 * self.batch_size
        first = torch.arange(len(x)) % period < period // 2
        x = x + torch.where(first, 4.0, -4.0)[:, None]
        return DataLoader(TensorDataset(x, y), batch_size=self.batch_size)


CASES = [
    Case("LT323", Run(lambda: Norm(0.0)), Run(lambda: Norm(0.1)), where="net.1", severity="warning", name="momentum 0"),
    Case("LT323", Run(PutBack), Run(Norm), where="net.1", severity="warning", name="put back"),
    Case(
        "LT323",
        Run(lambda: Domains(mixed=False)),
        Run(lambda: Domains(mixed=True)),
        where="net.1",
        severity="warning",
        name="domains",
    ),
]
