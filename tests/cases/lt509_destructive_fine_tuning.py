"""LT509: a trained net, fine-tuned at a hundred times the rate that it bears."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from tests.cases.case import Case, Run
from tests.helpers import Mlp, blobs


class Pretrained(Mlp):
    """The plain MLP, trained beforehand by a loop of its own on other samples of the same problem."""

    def __init__(self, lr: float) -> None:
        super().__init__(lr=lr, batches=20)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            optimizer = torch.optim.Adam(self.net.parameters(), lr=0.01)
            for x, y in 3 * list(DataLoader(blobs(1280, seed=5), batch_size=32)):
                optimizer.zero_grad()
                F.cross_entropy(self.net(x), y).backward()
                optimizer.step()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


CASES = [
    Case(
        code="LT509",
        sick=Run(lambda: Pretrained(1.0), trainer={"max_epochs": 4}),
        healthy=Run(lambda: Pretrained(0.01), trainer={"max_epochs": 4}),
        where="",
        severity="warning",
        also={
            "LT413": "the rate is far above what 16 samples bear",
            "LT601": "and the gradients explode",
        },
    ),
]
