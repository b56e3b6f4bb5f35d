"""LT607: a manual loop that never sets gradients back, and a module whose ``optimizer_zero_grad`` does nothing."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tests.cases.case import Case, Run
from tests.helpers import Mlp


class Manual(Mlp):
    def __init__(self, *, forgets: bool) -> None:
        super().__init__(lr=1e-3)
        self.automatic_optimization = False
        self.forgets = forgets

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        if not self.forgets:
            self.optimizers().zero_grad()
        self.manual_backward(F.cross_entropy(self(x), y))
        self.optimizers().step()


class Automatic(Mlp):
    def __init__(self, *, forgets: bool) -> None:
        super().__init__(lr=1e-3)
        self.forgets = forgets

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        if not self.forgets:
            optimizer.zero_grad(set_to_none=False)


def case(name: str, sick: Run, healthy: Run) -> Case:
    return Case("LT607", sick, healthy, where="SGD", severity="error", name=name)


CASES = [
    case("manual optimization", Run(lambda: Manual(forgets=True)), Run(lambda: Manual(forgets=False))),
    case("overridden", Run(lambda: Automatic(forgets=True)), Run(lambda: Automatic(forgets=False))),
]
