"""LT801: a learning rate of next to nothing, of a classifier and a regressor; a layer that hears nothing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.cases._data import Classifier, Regressor
from tests.cases.case import Case, Run

EPOCHS = {"max_epochs": 8}


class Crawling(Classifier):
    """Adam, at a rate of 1e-9 where 1e-2 was meant."""

    def __init__(self, rate: float) -> None:
        super().__init__(batches=40)
        self.rate = rate

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.rate)


class CutOff(Classifier):
    """The last layer hears nothing but zeros."""

    def __init__(self, cut: bool) -> None:
        super().__init__(batches=40)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.net[:-1](x)
        return self.net[-1](hidden.detach() * 0 if self.cut else hidden)


class Squares(Regressor):
    """A regression at the rate of :class:`Crawling`."""

    def __init__(self, rate: float) -> None:
        super().__init__(batches=40)
        self.rate = rate

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.rate)


class Weak(Regressor):
    """Next to all of the target is noise: R2 is about .02 at best, which is all that can be learned."""

    def __init__(self) -> None:
        super().__init__(batches=40, batch_size=64)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(self.global_step))
        return F.mse_loss(self(x), 0.15 * y / y.std() + noise)


CASES = [
    Case(
        code="LT801",
        sick=Run(lambda: Crawling(1e-9), trainer=EPOCHS),
        healthy=Run(lambda: Crawling(1e-2), trainer=EPOCHS),
        where="",
        severity="warning",
        also={"LT408": "the cause", "LT605": "and what the rate comes to"},
    ),
    Case(
        code="LT801",
        name="cut off",
        sick=Run(lambda: CutOff(True), trainer=EPOCHS),
        healthy=Run(lambda: CutOff(False), trainer=EPOCHS),
        where="",
        severity="warning",
        also={
            "LT414": "the cause",
            "LT201": "nothing of the samples is left",
            "LT603": "nor does the last layer's weight, which hears nothing but zeros",
            "LT202": "the first layer gets no gradient",
            "LT805": "every sample gets the same answer",
        },
    ),
    Case(
        code="LT801",
        name="regression",
        sick=Run(lambda: Squares(1e-9), trainer=EPOCHS),
        healthy=Run(Weak, trainer=EPOCHS),
        where="",
        severity="warning",
        also={"LT408": "the cause", "LT605": "and what the rate comes to"},
    ),
]
