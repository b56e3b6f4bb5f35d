"""LT803: a learning rate at which every step overshoots, and the loss swings for good."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.cases.case import Case
from tests.helpers import TinyModule


class Valley(TinyModule):
    """A quartic valley: too large a rate is thrown from wall to wall, and never out."""

    def build(self) -> torch.nn.Module:
        return torch.nn.Linear(8, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return ((self(x).squeeze(-1) - y) ** 2 + 1).log().mean()


CASES: list[Case] = []
