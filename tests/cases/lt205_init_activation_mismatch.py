"""LT205: N(0, .5) on a 3 x 3 convolution of 16 channels before a ReLU, against He's weights."""

from __future__ import annotations

from torch import nn

from tests.cases._initialised import Initialised
from tests.cases.case import Case, Run
from tests.helpers import CLASSES


class Images(Initialised):
    shape = (1, 8, 8)

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, CLASSES),
        )


CASES = [
    Case(
        code="LT205",
        sick=Run(lambda: Images(lambda net: nn.init.normal_(net[2].weight, std=0.5), lr=0.002)),
        healthy=Run(lambda: Images(lambda net: nn.init.kaiming_normal_(net[2].weight), lr=0.002)),
        where="net.2.weight",
        severity="info",
        also={"LT202": "for its size, a weight that is four times too large has little gradient"},
    ),
]
