"""LT320: a batch norm without statistics in eval mode; one dropout of two; a whole net."""

from __future__ import annotations

from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, BNConvNet, TinyModule


class Resting(BNConvNet):
    """One batch norm was put into eval mode before it had seen a batch."""

    def build(self) -> nn.Module:
        net = super().build()
        net[4].eval()
        return net


class TwoDropouts(TinyModule):
    """Two dropouts, the modules of ``resting`` in eval mode."""

    def __init__(self, *resting: str) -> None:
        super().__init__()
        for path in resting:
            self.get_submodule(path).eval()

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 32), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(32, CLASSES),
        )  # fmt: skip


CASES = [
    Case(code="LT320", sick=Run(Resting), healthy=Run(BNConvNet), where="net.4", severity="error"),
    Case(
        code="LT320",
        name="one dropout of two",
        sick=Run(lambda: TwoDropouts("net.2")),
        healthy=Run(TwoDropouts),
        where="net.2",
        severity="error",
    ),
    Case(
        code="LT320",
        name="a whole net",
        sick=Run(lambda: TwoDropouts("net")),
        healthy=Run(TwoDropouts),
        where="net",
        severity="info",
    ),
]
