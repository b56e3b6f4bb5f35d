"""LT413: a large learning rate from the first step on."""

from __future__ import annotations

from typing import Any

import torch

from tests.cases._optimized import Optimized
from tests.cases.case import Case, Run


def ramped(net: Any) -> Any:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    ramp = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=6)
    return [optimizer], [{"scheduler": ramp, "interval": "step"}]


CASES = [
    Case(
        code="LT413",
        sick=Run(lambda: Optimized(lambda net: torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9), batch_size=64)),
        healthy=Run(lambda: Optimized(ramped, batch_size=64)),
        where="SGD group 0",
        severity="info",
    ),
]
