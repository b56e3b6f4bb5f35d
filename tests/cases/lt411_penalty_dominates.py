"""LT411: an L1 penalty that is larger than the error, and one that is not."""

from __future__ import annotations

from torch import Tensor

from tests.cases.case import Case, Run
from tests.helpers import Mlp


class Penalized(Mlp):
    """The plain MLP; every weight costs."""

    def __init__(self, coefficient: float) -> None:
        super().__init__(lr=0.02)
        self.coefficient = coefficient

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        penalty = self.coefficient * sum(p.abs().sum() for p in self.net.parameters())
        return loss + penalty


CASES = [
    Case(
        code="LT411",
        sick=Run(lambda: Penalized(0.1), trainer={"max_epochs": 8}),
        healthy=Run(lambda: Penalized(1e-4), trainer={"max_epochs": 8}),
        where="",
        severity="warning",
        line="penalty = self.coefficient",
    ),
]
