"""LT104: classes numbered from 1; binary targets of -1 and 1."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases._data import Classifier
from tests.cases.case import Case, Run


def from_one(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, y + 1


def signs(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, 2 * (y > 0).float() - 1


def bits(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, (y > 0).float()


class Binary(Classifier):
    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy_with_logits(self(x).squeeze(1), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_mean", self(batch[0]).mean())


CASES = [
    Case(
        code="LT104",
        name="classes",
        sick=Run(lambda: Classifier(from_one), ends_with=IndexError, trainer={"num_sanity_val_steps": 0}),
        healthy=Run(Classifier),
        where="batch[1]",
        severity="error",
    ),
    Case(
        code="LT104",
        name="binary",
        sick=Run(lambda: Binary(signs)),
        healthy=Run(lambda: Binary(bits)),
        where="batch[1]",
        severity="error",
        line="binary_cross_entropy_with_logits",
    ),
]
