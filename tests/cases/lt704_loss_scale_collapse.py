"""LT704: gradients that float16 cannot hold at any scale."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.amp import GradScaler

from tests.cases.case import Case, Run
from tests.helpers import Mlp


class Weighted(Mlp):
    """A loss times a large constant, trained with a rate as much smaller."""

    def __init__(self, weight: float) -> None:
        super().__init__(0.1 / weight, batches=30)
        self.weight = weight

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight * super().training_step(batch, batch_idx)


def run(weight: float) -> Run:
    return Run(lambda: Weighted(weight), trainer={"plugins": [MixedPrecision("16-mixed", "cpu", GradScaler("cpu"))]})


CASES = [Case(code="LT704", sick=run(1e7), healthy=run(1.0), where="GradScaler", severity="warning")]
