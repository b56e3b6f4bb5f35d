"""LT606: clipping to a thousandth of the usual norm, so that the run stands still."""

from __future__ import annotations

from typing import Any

import torch

from tests.cases._optimized import Optimized
from tests.cases.case import Case, Run


def sgd(module: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)


class Own(Optimized):
    """Clips in a hook of its own."""

    def __init__(self, bound: float) -> None:
        super().__init__(sgd, batches=400)
        self.bound = bound

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        torch.nn.utils.clip_grad_value_(self.parameters(), self.bound)


class Early(Optimized):
    """Clips before the optimizer is about to step."""

    def __init__(self, bound: float) -> None:
        super().__init__(sgd, batches=400)
        self.bound = bound

    def on_after_backward(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters(), self.bound)


class Plain(Optimized):
    def __init__(self) -> None:
        super().__init__(sgd, batches=400)


def lightnings(bound: float, **settings: Any) -> Run:
    return Run(Plain, trainer={"gradient_clip_val": bound, **settings})


def case(name: str, sick: Run, healthy: Run) -> Case:
    return Case(code="LT606", sick=sick, healthy=healthy, where="SGD", severity="warning", name=name)


CASES = [
    case("norm", lightnings(1e-4), lightnings(1.0)),
    case("value", lightnings(1e-6, gradient_clip_algorithm="value"), lightnings(1.0, gradient_clip_algorithm="value")),
    case("own hook", Run(lambda: Own(1e-6)), Run(lambda: Own(1.0))),
    case("early", Run(lambda: Early(1e-4)), Run(lambda: Early(1.0))),
]
