"""LT302: dropout before each batch norm of a narrow net, or behind the last one (Li et al. 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


def products(samples: int, seed: int) -> TensorDataset:
    """Classes that no linear net tells apart: the largest of three sums of inputs and of products of inputs."""
    x = torch.randn(samples, 8, generator=torch.Generator().manual_seed(seed))
    sums = x @ torch.randn(8, CLASSES, generator=torch.Generator().manual_seed(5))
    return TensorDataset(x, (sums + x[:, :3] * x[:, 3:6]).argmax(1))


class Dropped(TinyModule):
    """Four layers with batch norm, ReLU and dropout.

    Args:
        everywhere: dropout stands before each batch norm; else behind the last alone.
        close: right before it; else a linear layer is between, which averages over its inputs.
        width: of the layers.
        p: of the dropout.
    """

    def __init__(
        self, *, everywhere: bool = True, close: bool = True, width: int = 16, p: float = 0.5, **settings: Any
    ) -> None:
        self._build = (everywhere, close, width, p)
        super().__init__(**{"batches": 60, "batch_size": 32, **settings})

    def build(self) -> nn.Module:
        everywhere, close, width, p = self._build
        layers: list[nn.Module] = []
        for depth, inputs in enumerate((8, width, width, width)):
            layers.append(nn.Linear(inputs, width, bias=False))
            drop = [nn.Dropout(p)] if everywhere else []
            layers += [nn.ReLU(), *drop, nn.BatchNorm1d(width)] if close else [nn.BatchNorm1d(width), nn.ReLU(), *drop]
            if depth == 3 and not everywhere:
                layers.append(nn.Dropout(p))
        return nn.Sequential(*layers, nn.Linear(width, CLASSES))

    def train_dataloader(self) -> DataLoader[Any]:
        order = torch.Generator().manual_seed(0)
        data = products(self.batches * self.batch_size, 0)
        return DataLoader(data, batch_size=self.batch_size, shuffle=True, generator=order)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(products(20 * self.batch_size, 1), batch_size=self.batch_size)


def run(*, everywhere: bool) -> Run:
    return Run(lambda: Dropped(everywhere=everywhere), trainer={"max_epochs": 4})


CASES = [
    Case(
        "LT302",
        run(everywhere=True),
        run(everywhere=False),
        where="net.2",
        severity="warning",
        also={"LT301": "that it stands there is advice already"},
    )
]
