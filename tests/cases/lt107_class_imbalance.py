"""LT107: one class makes up nearly all of the training data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.cases._data import Classifier
from tests.cases.case import Case, Run
from tests.helpers import CLASSES


def mostly_one(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    keep = torch.cat([(y == 0).nonzero().flatten(), *((y == k).nonzero().flatten()[:8] for k in (1, 2))])
    keep = keep.repeat_interleave(3)
    return x[keep], y[keep]


class Weighted(Classifier):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y, weight=torch.tensor([0.1, 1.0, 1.0])[:CLASSES])


CASES = [
    Case(
        code="LT107",
        sick=Run(lambda: Classifier(mostly_one, batches=40)),
        healthy=Run(lambda: Weighted(mostly_one, batches=40)),
        where="batch[1]",
        severity="info",
    ),
]
