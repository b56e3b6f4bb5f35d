"""LT806: a learning rate that is still being warmed up when the run ends."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from tests.cases.case import Case, Run
from tests.helpers import Mlp


class Warming(Mlp):
    """500 batches; the rate rises for ``warmup`` of them."""

    def __init__(self, warmup: int) -> None:
        super().__init__(batches=500)
        self.warmup = warmup

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)
        schedule = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / self.warmup) ** 4)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


CASES = [
    Case(
        code="LT806",
        sick=Run(lambda: Warming(1200)),
        healthy=Run(lambda: Warming(50)),
        where="",
        severity="info",
        also={"LT502": "nothing comes after the warm-up", "LT512": "the warm-up is longer than the run"},
    ),
]
