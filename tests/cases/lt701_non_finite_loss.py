"""LT701: the logarithm of a softmax that underflows, where ``log_softmax`` was meant.

One of many ways to a loss that is not finite; ``tests/cases/nan`` holds the others.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lightning_tuning import TuningError
from tests.cases.case import Case, Run
from tests.helpers import Mlp


class Confident(Mlp):
    """A cross entropy written by hand, of logits in the hundreds."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logs = (5000 * self(x)).softmax(-1).log()  # small ones are 0
        return -logs.gather(1, y[:, None]).mean() / 5000


class Stable(Mlp):
    """The same in one function, which never takes the logarithm of 0."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(5000 * self(x), y) / 5000


CASES = [
    Case(
        code="LT701",
        sick=Run(Confident, ends_with=TuningError),
        healthy=Run(Stable),
        where="",
        severity="error",
        line="# small ones are 0",
    )
]
