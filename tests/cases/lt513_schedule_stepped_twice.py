"""LT513: the module steps the scheduler that Lightning steps."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from tests.cases._scheduled import Scheduled
from tests.cases.case import Case, Run


class ByHand(Scheduled):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.lr_schedulers().step()
        return loss


def made(kind: type[Scheduled]) -> Any:
    return lambda: kind(lambda optimizer: CosineAnnealingLR(optimizer, 16), interval="step")


CASES = [
    Case(
        code="LT513",
        sick=Run(made(ByHand), trainer={"max_epochs": 2}),
        healthy=Run(made(Scheduled), trainer={"max_epochs": 2}),
        where="CosineAnnealingLR",
        severity="warning",
    ),
]
