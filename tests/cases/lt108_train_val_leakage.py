"""LT108: validation on samples that are trained on, against validation on others of the same kind."""

from __future__ import annotations

from typing import Any

from torch.utils.data import ConcatDataset, DataLoader

from lightning_tuning import Preflight
from tests.cases import Case, Run
from tests.helpers import Mlp, blobs


class Validated(Mlp):
    """Half of its validation samples are drawn with ``val_seed``; the training samples are drawn with ``seed``."""

    def __init__(self, val_seed: int) -> None:
        super().__init__()
        self.val_seed = val_seed

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(ConcatDataset([blobs(32, seed=self.val_seed), blobs(32, seed=7)]), batch_size=self.batch_size)


CASES = [
    Case(
        code="LT108",
        sick=Run(lambda: Validated(val_seed=0), callbacks=lambda: [Preflight()]),
        healthy=Run(lambda: Validated(val_seed=1), callbacks=lambda: [Preflight()]),
        where="val_dataloader",
        severity="warning",
    )
]
