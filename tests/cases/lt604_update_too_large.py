"""LT604: a weight decay that takes a tenth of the weights at each step, and all of it with momentum."""

from __future__ import annotations

from typing import Any

import torch

from tests.cases.case import Case, Run
from tests.helpers import Mlp


class Decaying(Mlp):
    def __init__(self, decay: float) -> None:
        super().__init__(batches=450)
        self.decay = decay

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=self.decay)


CASES = [
    Case(
        code="LT604",
        sick=Run(lambda: Decaying(1.0)),
        healthy=Run(lambda: Decaying(1e-4)),
        where="net.0.weight",
        severity="warning",
        also={
            "LT406": "it decays the biases too",
            "LT602": "weights of nearly 0 let no gradient through",
            "LT801": "so nothing is learned",
            "LT805": "and every sample gets the same answer",
        },
    ),
]
