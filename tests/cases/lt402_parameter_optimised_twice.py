"""LT402: tied weights listed twice; a GAN whose generator's optimizer was given everything."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, ManualGAN, TinyModule


class Tied(TinyModule):
    """Two layers that share their weight, each of whose parameters are put into the list."""

    def __init__(self, *, once: bool) -> None:
        super().__init__()
        self.once = once

    def build(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES))
        net[2].weight = net[0].weight
        return net

    def configure_optimizers(self) -> Any:
        parameters = [parameter for layer in self.net for parameter in layer.parameters()]
        if self.once:
            parameters = list(dict.fromkeys(parameters))
        return torch.optim.SGD(parameters, lr=self.lr / 2, momentum=0.9)


class OneForBoth(ManualGAN):
    """The generator's optimizer moves the discriminator too, for the generator's loss."""

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.net["discriminator"].parameters(), lr=self.lr, betas=(0.5, 0.999)),
            torch.optim.Adam(self.parameters(), lr=self.lr, betas=(0.5, 0.999)),
        ]


CASES = [
    Case(
        code="LT402",
        sick=Run(lambda: Tied(once=False)),
        healthy=Run(lambda: Tied(once=True)),
        where="SGD group 0",
        severity="error",
    ),
    Case(
        code="LT402",
        name="in two optimizers",
        sick=Run(OneForBoth),
        healthy=Run(ManualGAN),
        where="Adam 0, Adam 1",
        severity="error",
    ),
]
