"""LT803: classes in blocks, at a learning rate that learns each block by heart and forgets the one before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.cases._data import Classifier
from tests.cases.case import Case, Run

NOISE = 1.5
EPOCHS = {"max_epochs": 16}


def sort(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Class by class; classes that overlap, so that what is learned of one harms the others."""
    order = y.argsort(stable=True)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    return (x + NOISE * noise)[order] / NOISE, y[order]


class Blocks(Classifier):
    """The same samples in blocks of a class, or in any order."""

    def __init__(self, *, shuffle: bool, **settings: Any) -> None:
        super().__init__(sort, shuffle=shuffle, batches=24, **settings)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


CASES = [
    Case(
        code="LT803",
        sick=Run(lambda: Blocks(shuffle=False, lr=0.5), trainer=EPOCHS),
        healthy=Run(lambda: Blocks(shuffle=True, lr=0.5), trainer=EPOCHS),
        where="",
        severity="warning",
        also={"LT106": "the cause", "LT407": "advice for a run that does not learn"},
    ),
]
