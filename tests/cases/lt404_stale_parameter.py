"""LT404: a head that is replaced when the optimizer is there already."""

from __future__ import annotations

from torch import Tensor, nn

from tests.cases.case import Case, Run
from tests.helpers import CLASSES, TinyModule


class NewHead(TinyModule):
    """Its pretrained head has other classes and is replaced, in time or too late."""

    def __init__(self, *, too_late: bool) -> None:
        super().__init__()
        self.too_late = too_late

    def build(self) -> nn.Module:
        body = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        return nn.ModuleDict({"body": body, "head": nn.Linear(16, 10)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["head"](self.net["body"](x))

    def configure_model(self) -> None:
        if not self.too_late:
            self.net["head"] = nn.Linear(16, CLASSES)

    def on_fit_start(self) -> None:
        if self.too_late:
            self.net["head"] = nn.Linear(16, CLASSES)


CASES = [
    Case(
        code="LT404",
        sick=Run(lambda: NewHead(too_late=True)),
        healthy=Run(lambda: NewHead(too_late=False)),
        where="net.head",
        severity="error",
    ),
]
