"""LT111: attention that takes the samples for the steps of a sequence; a ``view`` where a ``transpose`` was meant."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_tuning import Preflight
from tests.cases import Case, Run
from tests.helpers import CLASSES, TinyModule


class Attends(TinyModule):
    """Attention over six steps of eight features, then the mean over them; the batch comes first."""

    shape = (6, 8)

    def __init__(self, *, batch_first: bool) -> None:
        self.batch_first = batch_first
        super().__init__(0.05)

    def build(self) -> nn.Module:
        attention = nn.MultiheadAttention(8, 2, batch_first=self.batch_first)
        return nn.ModuleDict({"attention": attention, "head": nn.Linear(8, CLASSES)})

    def forward(self, x: Tensor) -> Tensor:
        h = x + self.net["attention"](x, x, x, need_weights=False)[0]
        return self.net["head"](h.mean(dim=1))


class Folds(TinyModule):
    """Puts time in front for a layer, and back again."""

    shape = (6, 8)

    def __init__(self, *, view: bool) -> None:
        super().__init__(0.05)
        self.view = view

    def build(self) -> nn.Module:
        return nn.ModuleDict({"body": nn.Linear(8, 8), "head": nn.Linear(8, CLASSES)})

    def forward(self, x: Tensor) -> Tensor:
        batch, time, features = x.shape
        h = torch.tanh(self.net["body"](x.transpose(0, 1)))
        h = h.reshape(batch, time, features) if self.view else h.transpose(0, 1)  # the fold
        return self.net["head"](h.mean(dim=1))


CASES = [
    Case(
        name="attention over the batch",
        code="LT111",
        sick=Run(lambda: Attends(batch_first=False), callbacks=lambda: [Preflight()]),
        healthy=Run(lambda: Attends(batch_first=True), callbacks=lambda: [Preflight()]),
        where="net.attention",
        severity="error",
    ),
    Case(
        name="a view for a transpose",
        code="LT111",
        sick=Run(lambda: Folds(view=True), callbacks=lambda: [Preflight()]),
        healthy=Run(lambda: Folds(view=False), callbacks=lambda: [Preflight()]),
        where="",
        severity="error",
    ),
]
