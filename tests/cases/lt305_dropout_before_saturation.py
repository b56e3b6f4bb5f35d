"""LT305: dropout before a tanh instead of behind it, and before the softmax of a hand-written attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Before(TinyModule):
    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.2), nn.Tanh(), nn.Linear(32, CLASSES))


class Behind(TinyModule):
    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Dropout(0.2), nn.Linear(32, CLASSES))


class Pooled(TinyModule):
    """Six tokens, averaged with weights of a softmax."""

    shape = (6, 8)

    def __init__(self, *, on_scores: bool) -> None:
        super().__init__()
        self.on_scores = on_scores

    def build(self) -> nn.Module:
        return nn.ModuleDict({"score": nn.Linear(8, 1), "head": nn.Linear(8, CLASSES)})

    def forward(self, x: Tensor) -> Tensor:
        scores = self.net["score"](x)
        if self.on_scores:
            scores = F.dropout(scores, 0.1, self.training)  # here
            weights = scores.softmax(1)
        else:
            weights = F.dropout(scores.softmax(1), 0.1, self.training)
        return self.net["head"]((weights * x).sum(1))


CASES = [
    Case("LT305", Run(Before), Run(Behind), where="net.1", severity="info"),
    Case(
        "LT305",
        Run(lambda: Pooled(on_scores=True)),
        Run(lambda: Pooled(on_scores=False)),
        where="",
        severity="info",
        line="F.dropout(scores, ",
        name="attention",
    ),
]
