"""LT110: a mask the wrong way round, that wipes out every input."""

from __future__ import annotations

from torch import Tensor

from lightning_tuning import Preflight
from tests.cases import Case, Run
from tests.helpers import Mlp


class Masked(Mlp):
    """Leaves outliers out; or, the wrong way round, everything else."""

    def __init__(self, *, outliers: bool) -> None:
        super().__init__()
        self.outliers = outliers

    def forward(self, x: Tensor) -> Tensor:
        keep = x.abs() > 100 if self.outliers else x.abs() <= 100
        return self.net(x * keep)


CASES = [
    Case(
        code="LT110",
        sick=Run(lambda: Masked(outliers=True), callbacks=lambda: [Preflight()]),
        healthy=Run(lambda: Masked(outliers=False), callbacks=lambda: [Preflight()]),
        where="batch[0]",
        severity="warning",
    )
]
