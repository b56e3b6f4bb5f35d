"""LT102: images of 0 to 255."""

from __future__ import annotations

from torch import Tensor, nn

from tests.cases._data import Classifier
from tests.cases.case import Case, Run
from tests.helpers import CLASSES


def scaled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return (x.clamp(-3, 3) + 3) / 6, y


def bytes_of_images(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return scaled(x, y)[0] * 255, y


class Images(Classifier):
    shape = (1, 6, 6)

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, CLASSES)
        )


CASES = [
    Case(
        code="LT102",
        sick=Run(lambda: Images(bytes_of_images, lr=0.01)),
        healthy=Run(lambda: Images(scaled, lr=0.01)),
        where="net.0",
        severity="info",
        also={
            "LT206": "that is how such inputs show",
            "LT601": "and such gradients",
        },
    ),
]
