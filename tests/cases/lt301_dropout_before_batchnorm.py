"""LT301: a dropout in front of a batch norm, against the same behind the last one."""

from __future__ import annotations

from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class DropoutFirst(TinyModule):
    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
            nn.Linear(16, CLASSES),
        )  # fmt: skip


class DropoutLast(TinyModule):
    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(16, CLASSES),
        )  # fmt: skip


CASES = [Case("LT301", Run(DropoutFirst), Run(DropoutLast), where="net.2", severity="info")]
