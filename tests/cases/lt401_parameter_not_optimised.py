"""LT401: a scale that the optimizer was not given; a body that nobody trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Scaled(TinyModule):
    """Logits with a learned scale; the optimizer gets the layers, or everything."""

    def __init__(self, *, all_of_it: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.all_of_it = all_of_it

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net(x)

    def configure_optimizers(self) -> Any:
        parameters = self.parameters() if self.all_of_it else self.net.parameters()
        return torch.optim.SGD(parameters, lr=self.lr, momentum=0.9)


class HeadOnly(TinyModule):
    """The optimizer gets the head; the body is frozen, or computes gradients for nobody."""

    def __init__(self, *, frozen: bool) -> None:
        super().__init__()
        self.net["body"].requires_grad_(not frozen)

    def build(self) -> nn.Module:
        body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        return nn.ModuleDict({"body": body, "head": nn.Linear(16, CLASSES)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["head"](self.net["body"](x))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net["head"].parameters(), lr=self.lr, momentum=0.9)


CASES = [
    Case(
        code="LT401",
        sick=Run(lambda: Scaled(all_of_it=False)),
        healthy=Run(lambda: Scaled(all_of_it=True)),
        where="scale",
        severity="error",
    ),
    Case(
        code="LT401",
        name="a whole submodule",
        sick=Run(lambda: HeadOnly(frozen=False)),
        healthy=Run(lambda: HeadOnly(frozen=True)),
        where="net.body",
        severity="info",
    ),
]
