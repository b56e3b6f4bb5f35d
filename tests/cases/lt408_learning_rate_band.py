"""LT408: Adam with SGD's learning rate, at once or by its schedule; Adadelta with Adam's; cut far too deep.

All but the last end too early for more than an info.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR

from tests.cases._optimized import Optimized
from tests.cases.case import Case, Run


def one_cycle(highest: float) -> Any:
    """A cycle of 64 steps up to ``highest``."""

    def make(net: torch.nn.Module) -> Any:
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        schedule = OneCycleLR(optimizer, highest, total_steps=64)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return make


def cut(gamma: float) -> Any:
    """Cut once, after six tenths of the run."""

    def make(net: torch.nn.Module) -> Any:
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        return [optimizer], [MultiStepLR(optimizer, [6], gamma)]

    return make


CASES = [
    Case(
        code="LT408",
        sick=Run(lambda: Optimized(lambda net: torch.optim.Adam(net.parameters(), lr=0.1))),
        healthy=Run(lambda: Optimized(lambda net: torch.optim.Adam(net.parameters(), lr=0.01))),
        where="Adam group 0",
        severity="info",
    ),
    Case(
        code="LT408",
        name="Adadelta",
        sick=Run(lambda: Optimized(lambda net: torch.optim.Adadelta(net.parameters(), lr=1e-3))),
        healthy=Run(lambda: Optimized(lambda net: torch.optim.Adadelta(net.parameters(), lr=1.0))),
        where="Adadelta group 0",
        severity="info",
    ),
    Case(
        code="LT408",
        name="at the top of a cycle",
        sick=Run(lambda: Optimized(one_cycle(0.2)), trainer={"max_epochs": 8}),
        healthy=Run(lambda: Optimized(one_cycle(0.01)), trainer={"max_epochs": 8}),
        where="Adam group 0",
        severity="info",
    ),
    Case(
        code="LT408",
        name="cut too deep",
        sick=Run(lambda: Optimized(cut(1e-6), batches=20), trainer={"max_epochs": 10}),
        healthy=Run(lambda: Optimized(cut(0.1), batches=20), trainer={"max_epochs": 10}),
        where="Adam group 0",
        severity="info",
    ),
]
