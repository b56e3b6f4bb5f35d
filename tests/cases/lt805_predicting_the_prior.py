"""LT805: a layer of dead ReLUs gives every sample the same answer, in a classifier and in a regressor."""

from __future__ import annotations

import torch

from tests.cases._data import Classifier, Regressor
from tests.cases.case import Case, Run

EPOCHS = {"max_epochs": 7}


class Dead(Classifier):
    """All units of the hidden layer are silent, for all that can come."""

    def __init__(self, bias: float) -> None:
        super().__init__(batches=40)
        with torch.no_grad():
            self.net[0].bias += bias


class DeadRegressor(Regressor):
    """Likewise, of a value."""

    def __init__(self, bias: float) -> None:
        super().__init__(batches=40)
        with torch.no_grad():
            self.net[0].bias += bias


CASES = [
    Case(
        code="LT805",
        sick=Run(lambda: Dead(-20.0), trainer=EPOCHS),
        healthy=Run(lambda: Dead(0.0), trainer=EPOCHS),
        where="net.2",
        severity="warning",
        also={
            "LT201": "the samples are alike behind the dead layer",
            "LT202": "the first layer gets no gradient",
            "LT205": "the bias has shifted the layer",
            "LT608": "the dead units",
            "LT602": "the first layer gets no gradient",
            "LT603": "the first layer gets no gradient",
            "LT801": "so it does not learn",
        },
    ),
    Case(
        code="LT805",
        name="regression",
        sick=Run(lambda: DeadRegressor(-20.0), trainer=EPOCHS),
        healthy=Run(lambda: DeadRegressor(0.0), trainer=EPOCHS),
        where="net.2",
        severity="warning",
        also={
            "LT201": "the samples are alike behind the dead layer",
            "LT202": "the first layer gets no gradient",
            "LT608": "the dead units",
            "LT602": "the first layer gets no gradient",
            "LT603": "the first layer gets no gradient",
            "LT801": "so it does not learn",
        },
    ),
]
