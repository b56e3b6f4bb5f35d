"""LT603: weights of zeros on both sides, and a parameter that `forward` forgot."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.cases._initialised import Initialised
from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


def zeros(net: nn.Module) -> None:
    for parameter in net.parameters():
        nn.init.zeros_(parameter)


class Scaled(nn.Module):
    """A linear layer with a scale for each output."""

    def __init__(self, *, forgotten: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(16, 8))
        self.scale = nn.Parameter(torch.ones(16))
        self.forgotten = forgotten

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T if self.forgotten else x @ self.weight.T * self.scale


class Forgetful(TinyModule):
    def __init__(self, *, forgotten: bool) -> None:
        self._forgotten = forgotten  # the base builds at once
        super().__init__(batches=210)

    def build(self) -> nn.Module:
        return nn.Sequential(Scaled(forgotten=self._forgotten), nn.ReLU(), nn.Linear(16, CLASSES))


class Pooled(TinyModule):
    """The body's pooler is there for others, as BERT's; or it is frozen."""

    def __init__(self, *, frozen: bool) -> None:
        super().__init__(batches=210)
        self.net["pooler"].requires_grad_(not frozen)

    def build(self) -> nn.Module:
        return nn.ModuleDict({"body": nn.Linear(8, 16), "pooler": nn.Linear(16, 16), "head": nn.Linear(16, CLASSES)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["head"](self.net["body"](x).relu())


CASES = [
    Case(
        code="LT603",
        sick=Run(lambda: Initialised(zeros, batches=12)),
        healthy=Run(lambda: Initialised(batches=12)),
        where="net.4.weight",
        severity="error",
        name="zeros",
    ),
    Case(
        code="LT603",
        sick=Run(lambda: Forgetful(forgotten=True)),
        healthy=Run(lambda: Forgetful(forgotten=False)),
        where="net.0.scale",
        severity="error",
        name="forgotten",
    ),
    Case(
        code="LT603",
        sick=Run(lambda: Pooled(frozen=False)),
        healthy=Run(lambda: Pooled(frozen=True)),
        where="net.pooler",
        severity="info",
        name="whole module",
    ),
]
