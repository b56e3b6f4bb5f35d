"""LT611: attention over products of 64 features, not divided by the root of 64."""

from __future__ import annotations

import math

from torch import Tensor, nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule

WIDTH = 96


class Attention(nn.Module):
    """One head, written out."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(8, WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        for layer in (self.q, self.k):
            nn.init.xavier_normal_(layer.weight)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x))
        scores = self.q(x) @ self.k(x).transpose(-2, -1) * self.scale
        return self.head((x + scores.softmax(-1) @ self.v(x)).mean(1))


class Attends(TinyModule):
    """Six tokens of eight features, averaged after the attention."""

    shape = (6, 8)

    def __init__(self, scale: float) -> None:
        self.factor = [scale]
        super().__init__(lr=0.02)

    def build(self) -> nn.Module:
        return Attention(self.factor[0])


CASES = [
    Case(
        code="LT611",
        sick=Run(lambda: Attends(1.0)),
        healthy=Run(lambda: Attends(1 / math.sqrt(WIDTH))),
        where="net",
        severity="info",  # of a symptom, as long as nobody knows how the run goes
        line="scores.softmax(-1)",
    ),
]
