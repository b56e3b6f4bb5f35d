"""LT903: a division by zero in the weights themselves, and a checkpoint right after it."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_tuning import TuningError
from tests.cases.case import Case, Run
from tests.helpers import Mlp


class UnitRows(Mlp):
    """Prunes a row of its first layer and brings all to unit length, after an update that was in order."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def optimizer_step(self, epoch: int, batch_idx: int, *args: Any) -> None:
        super().optimizer_step(epoch, batch_idx, *args)
        if batch_idx == 5:
            with torch.no_grad():
                self.net[0].weight[3] = 0.0
                self.net[0].weight /= self.net[0].weight.norm(dim=1, keepdim=True) + self.eps


def run(eps: float, **ends: Any) -> Run:
    return Run(
        lambda: UnitRows(eps),
        trainer={"enable_checkpointing": True},
        callbacks=lambda: [ModelCheckpoint(dirpath="kept", every_n_train_steps=1)],
        **ends,
    )


CASES = [
    Case(
        code="LT903",
        sick=run(0.0, ends_with=TuningError),
        healthy=run(1e-6),
        where="net.0.weight",
        severity="error",
    )
]
