"""LT309: the logits come out of a batch norm."""

from __future__ import annotations

from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Classifier(TinyModule):
    """Ends with a batch norm, or with the weight layer."""

    def __init__(self, *, normalized: bool) -> None:
        self.normalized = [normalized]
        super().__init__(batch_size=32)

    def build(self) -> nn.Module:
        body = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES, bias=not self.normalized[0])]
        return nn.Sequential(*body, *([nn.BatchNorm1d(CLASSES)] if self.normalized[0] else []))


CASES = [
    Case(
        "LT309",
        Run(lambda: Classifier(normalized=True)),
        Run(lambda: Classifier(normalized=False)),
        where="net.3",
        severity="warning",
    )
]
