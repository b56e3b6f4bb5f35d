"""LT403: layers in a plain list, a weight in a plain dict."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Deep(TinyModule):
    """Its blocks lie in a list that torch knows, or in one that it does not."""

    def __init__(self, *, registered: bool, by_hand: bool = False) -> None:
        super().__init__()
        self.by_hand = by_hand
        blocks = [nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(2)]
        self.blocks: Any = nn.ModuleList(blocks) if registered else blocks

    def build(self) -> nn.Module:
        return nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.net(x)

    def configure_optimizers(self) -> Any:
        parameters = list(self.parameters())
        if self.by_hand:
            parameters += [parameter for block in self.blocks for parameter in block.parameters()]
        return torch.optim.SGD(parameters, lr=self.lr, momentum=0.9)


class Gated(nn.Module):
    """A submodule that keeps one parameter in a dict."""

    def __init__(self, *, registered: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(8, CLASSES)
        gates = {"in": nn.Parameter(torch.ones(8))}
        self.gates: Any = nn.ParameterDict(gates) if registered else gates

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.gates["in"])


class WithGate(TinyModule):
    def __init__(self, *, registered: bool) -> None:
        super().__init__()
        self.net = Gated(registered=registered)

    def build(self) -> nn.Module:
        return nn.Identity()


CASES = [
    Case(
        code="LT403",
        sick=Run(lambda: Deep(registered=False)),
        healthy=Run(lambda: Deep(registered=True)),
        where="blocks",
        severity="error",
    ),
    Case(
        code="LT403",
        name="trained, but never saved",
        sick=Run(lambda: Deep(registered=False, by_hand=True)),
        healthy=Run(lambda: Deep(registered=True)),
        where="blocks",
        severity="warning",
    ),
    Case(
        code="LT403",
        name="a parameter in a dict",
        sick=Run(lambda: WithGate(registered=False)),
        healthy=Run(lambda: WithGate(registered=True)),
        where="net.gates",
        severity="error",
        line='self.gates["in"]',
    ),
]
