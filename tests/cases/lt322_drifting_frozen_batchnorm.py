"""LT322: a frozen backbone left in training mode, against one in evaluation mode."""

from __future__ import annotations

from torch import Tensor, nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class FineTuning(TinyModule):
    """A frozen backbone with a fresh head."""

    def __init__(self, *, evaluated: bool) -> None:
        super().__init__()
        self.net["backbone"].requires_grad_(False).train(not evaluated)

    def build(self) -> nn.Module:
        backbone = nn.Sequential(nn.Linear(8, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU())
        return nn.ModuleDict({"backbone": backbone, "head": nn.Linear(32, CLASSES)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["head"](self.net["backbone"](x))


CASES = [
    Case(
        "LT322",
        Run(lambda: FineTuning(evaluated=False)),
        Run(lambda: FineTuning(evaluated=True)),
        where="net.backbone.1",
        severity="warning",
    )
]
