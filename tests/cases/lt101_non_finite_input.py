"""LT101: one sample of the training data holds a NaN."""

from __future__ import annotations

from torch import Tensor

from lightning_tuning import TuningError
from tests.cases._data import Classifier
from tests.cases.case import Case, Run


def one_is_missing(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone()
    x[40, 3] = float("nan")
    return x, y


CASES = [
    Case(
        code="LT101",
        sick=Run(lambda: Classifier(one_is_missing), ends_with=TuningError),
        healthy=Run(Classifier),
        where="batch[0]",
        severity="error",
        also={"LT701": "the sample makes the loss NaN"},
    ),
]
