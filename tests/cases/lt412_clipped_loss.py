"""LT412: the loss is clipped."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Clipped(TinyModule):
    """A classifier whose loss is cut off, or its gradient."""

    def __init__(self, *, sick: bool) -> None:
        super().__init__(lr=0.05)
        self.sick = sick

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        if self.sick:
            loss = loss.clamp(max=5.0)
        return loss


CASES = [
    Case(
        "LT412",
        Run(lambda: Clipped(sick=True)),
        Run(lambda: Clipped(sick=False), trainer={"gradient_clip_val": 5.0}),
        where="",
        severity="info",
        line="loss.clamp(max=5.0)",
    ),
]
