"""LT103: a column that was filled with one value."""

from __future__ import annotations

from torch import Tensor

from tests.cases._data import Classifier
from tests.cases.case import Case, Run


def filled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone()
    x[:, 5] = 0.37
    return x, y


CASES = [
    Case(
        code="LT103",
        sick=Run(lambda: Classifier(filled)),
        healthy=Run(Classifier),
        where="batch[0]",
        severity="info",
    ),
]
