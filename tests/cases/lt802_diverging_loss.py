"""LT802: a learning rate that grows without end drives a run away from what it had found."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch.optim.lr_scheduler import LambdaLR

from lightning_tuning import LossSpikeGuard
from tests.cases.case import Case, Run
from tests.helpers import Mlp


class Growing(Mlp):
    """600 batches; the rate grows to ``factor`` times itself."""

    def __init__(self, factor: float) -> None:
        super().__init__(batches=600)
        self.factor = factor

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        schedule = LambdaLR(optimizer, lambda step: self.factor ** (step / 600))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def watched() -> list[pl.Callback]:
    """The guard is on request, not in the suite."""
    return [LossSpikeGuard("warn")]


CASES = [
    Case(
        code="LT802",
        sick=Run(lambda: Growing(3000.0), callbacks=watched),
        healthy=Run(lambda: Growing(0.1), callbacks=watched),
        where="",
        severity="warning",
        also={
            "LT407": "plain SGD, so that it diverges slowly, in a run that goes wrong",
            "LT408": "the cause: the rate leaves its band",
            "LT601": "the gradients explode with the rate",
            "LT805": "the units that it has killed give every sample the same answer",
            "LT807": "and the loss jumps",
        },
    ),
]
