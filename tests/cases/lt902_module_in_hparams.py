"""LT902: a backbone among the hyperparameters."""

from __future__ import annotations

import warnings

from torch import nn

from tests.cases.case import Case, Run
from tests.helpers import Mlp


class WithBackbone(Mlp):
    def __init__(self, backbone: nn.Module, width: int, ignore: list[str]) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=[*ignore, "ignore"])
        self.net[0] = backbone


def made(ignore: list[str]) -> WithBackbone:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning says so too
        return WithBackbone(nn.Linear(8, 16), 16, ignore)


CASES = [
    Case(
        code="LT902",
        sick=Run(lambda: made([])),
        healthy=Run(lambda: made(["backbone"])),
        where="hparams.backbone",
        severity="warning",
    ),
]
