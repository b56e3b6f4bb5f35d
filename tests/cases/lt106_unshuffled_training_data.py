"""LT106: a folder for each class, read one after the other."""

from __future__ import annotations

from torch import Tensor

from tests.cases._data import Classifier
from tests.cases.case import Case, Run


def by_class(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    order = y.argsort()
    return x[order], y[order]


CASES = [
    Case(
        code="LT106",
        sick=Run(lambda: Classifier(by_class, shuffle=False)),
        healthy=Run(lambda: Classifier(by_class, shuffle=True)),
        where="batch[1]",
        severity="warning",
    ),
]
