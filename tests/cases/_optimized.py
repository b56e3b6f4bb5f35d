"""A net whose optimizer a case chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tests.helpers import CLASSES, TinyModule


class Optimized(TinyModule):
    """Linear, layer norm, ReLU, linear, trained with whatever ``make(module)`` gives."""

    def __init__(self, make: Callable[[nn.Module], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.make = make

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, CLASSES))

    def configure_optimizers(self) -> Any:
        return self.make(self)
