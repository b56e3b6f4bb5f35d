"""LT703: rows of a weight are brought to unit length by hand, and one of them has none."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback

from lightning_tuning import TuningError
from tests.cases.case import Case, Run
from tests.helpers import Mlp


class UnitRows(Callback):
    """Prunes a row of the first layer, and divides each row by its length.

    Args:
        eps: added to it.
    """

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            with torch.no_grad():
                weight = pl_module.net[0].weight
                weight[0] = 0.0
                weight /= weight.norm(dim=1, keepdim=True) + self.eps


CASES = [
    Case(
        code="LT703",
        sick=Run(Mlp, callbacks=lambda: [UnitRows(0.0)], ends_with=TuningError),
        healthy=Run(Mlp, callbacks=lambda: [UnitRows(1e-6)]),
        where="net.0.weight",
        severity="error",
    )
]
