"""LT313: TensorFlow's momentum in torch."""

from __future__ import annotations

from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class Norm(TinyModule):
    def __init__(self, momentum: float) -> None:
        self.momentum = [momentum]
        super().__init__()

    def build(self) -> nn.Module:
        norm = nn.BatchNorm1d(16, momentum=self.momentum[0])
        return nn.Sequential(nn.Linear(8, 16, bias=False), norm, nn.ReLU(), nn.Linear(16, CLASSES))


CASES = [Case("LT313", Run(lambda: Norm(0.9)), Run(lambda: Norm(0.1)), where="net.1", severity="warning")]
