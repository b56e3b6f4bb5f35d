"""Nets that differ in their first weights only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tests.helpers import CLASSES, TinyModule


class Initialised(TinyModule):
    """Linear, ReLU, linear, ReLU, linear, or what ``make`` builds; ``change`` has the last word on the weights."""

    def __init__(
        self,
        change: Callable[[nn.Module], object] = lambda net: None,
        make: Callable[[], nn.Module] | None = None,
        **kwargs: Any,
    ) -> None:
        self._make = make  # the base builds at once
        super().__init__(**kwargs)
        change(self.net)

    def build(self) -> nn.Module:
        return stack(3) if self._make is None else self._make()


def stack(depth: int, activation: type[nn.Module] = nn.ReLU, width: int = 32) -> nn.Sequential:
    """``depth`` linear layers with activations between them: the weights are at 0, 2, 4 ..."""
    layers: list[nn.Module] = [nn.Linear(8, width), activation()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def he(net: nn.Module) -> None:
    """The weights that ReLU wants, and no biases."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
