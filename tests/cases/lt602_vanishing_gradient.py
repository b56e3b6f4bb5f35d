"""LT602: a learning rate that drives twelve tanh layers into saturation, so that the first ones get nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.cases._initialised import Initialised, stack
from tests.cases.case import Case, Run


class Saturating(Initialised):
    def __init__(self, lr: float) -> None:
        super().__init__(make=lambda: stack(8, nn.Tanh), lr=lr, batches=400)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


CASES = [
    Case(
        code="LT602",
        sick=Run(lambda: Saturating(30.0)),
        healthy=Run(lambda: Saturating(0.05)),
        where="net.0.weight",
        severity="warning",
        also={},
    ),
]
