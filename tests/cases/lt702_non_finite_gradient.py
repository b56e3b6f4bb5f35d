"""LT702: a distance of 0, whose root has no gradient there.

The loss is finite, and so would be the next one be, of weights that are all NaN. ``tests/cases/nan`` holds other ways.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_tuning import TuningError
from tests.cases.case import Case, Run
from tests.helpers import Mlp


class Compact(Mlp):
    """Pulls the samples of a batch towards the first one, which is at distance 0 from itself.

    Args:
        eps: below the root.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        squares = (self(batch[0]) - self(batch[0][:1])).square().sum(-1)
        distances = torch.sqrt(squares + self.eps)  # one of them is 0
        return super().training_step(batch, batch_idx) + 0.01 * distances.mean()


CASES = [
    Case(
        code="LT702",
        sick=Run(lambda: Compact(0.0), ends_with=TuningError),
        healthy=Run(lambda: Compact(1e-12)),
        where="",
        severity="error",
        line="# one of them is 0",
    )
]
