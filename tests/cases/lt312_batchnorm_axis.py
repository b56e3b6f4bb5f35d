"""LT312: sixteen tokens of sixteen features, normalized over the wrong ones."""

from __future__ import annotations

from torch import Tensor, nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Tokens(TinyModule):
    shape = (16, 8)

    def __init__(self, *, transposed: bool) -> None:
        super().__init__(batch_size=32)
        self.transposed = transposed

    def build(self) -> nn.Module:
        return nn.ModuleDict(
            {"embed": nn.Linear(8, 16), "norm": nn.BatchNorm1d(16), "head": nn.Linear(16, CLASSES)},
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.net["embed"](x).relu()
        if self.transposed:
            tokens = self.net["norm"](tokens.transpose(1, 2)).transpose(1, 2)
        else:
            tokens = self.net["norm"](tokens)  # here
        return self.net["head"](tokens.mean(1))


CASES = [
    Case(
        "LT312",
        Run(lambda: Tokens(transposed=False)),
        Run(lambda: Tokens(transposed=True)),
        where="net.norm",
        severity="info",
        line="# here",
    )
]
