"""LT807: some batches of noise throw the run off and it comes back; a learning rate of forty times breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lightning_tuning import LossSpikeGuard
from tests.cases.case import Case, Run
from tests.helpers import Mlp


class Shaken(Mlp):
    """``shake(module, step)`` is done before each batch of 160."""

    def __init__(self, shake: Callable[[Shaken, int], None]) -> None:
        super().__init__(batches=160)
        self.shake = shake
        self.noise = 0.0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.shake(self, batch_idx)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return super().training_step((x, (y + 1) % 3 if self.noise else y), batch_idx)


def nothing(module: Shaken, step: int) -> None:
    """A healthy run."""


def wrong_labels(module: Shaken, step: int) -> None:
    """Six batches with the labels of other samples."""
    module.noise = float(70 <= step < 76)


def rate(module: Shaken, step: int) -> None:
    """What a schedule with a wrong unit does."""
    if step == 70:
        module.optimizers().param_groups[0]["lr"] = 40 * module.lr


def watched() -> list[pl.Callback]:
    """The guard is on request, not in the suite."""
    return [LossSpikeGuard("warn")]


CASES = [
    Case(
        code="LT807",
        sick=Run(lambda: Shaken(wrong_labels), callbacks=watched),
        healthy=Run(lambda: Shaken(nothing), callbacks=watched),
        where="",
        severity="info",
        also={"LT601": "the gradients of wrong labels are far larger than usual"},
    ),
    Case(
        code="LT807",
        name="rate",
        sick=Run(lambda: Shaken(rate), callbacks=watched),
        healthy=Run(lambda: Shaken(nothing), callbacks=watched),
        where="",
        severity="warning",
        also={"LT408": "the cause: the rate leaves its band", "LT601": "such a rate makes the gradients explode"},
    ),
]
