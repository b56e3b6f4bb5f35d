"""What is known of the weights of a module from earlier fits."""

from __future__ import annotations

import weakref
from typing import ClassVar

from torch import Tensor, nn

__all__ = ["Memory"]


class Memory:
    """What happened to the weights of one module, for as long as it lives and whoever trains it.

    Attributes:
        handled: names of the parameters that were initialised, or loaded by a run that resumed.
    """

    _by_module: ClassVar[weakref.WeakKeyDictionary[nn.Module, Memory]] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self.handled: set[str] = set()
        self._fresh: dict[str, tuple[float, float]] = {}

    @classmethod
    def of(cls, module: nn.Module) -> Memory:
        """The memory of ``module``, made on first use."""
        return cls._by_module.setdefault(module, cls())

    def remember_fresh(self, name: str, weight: Tensor) -> None:
        """``weight``, or a bias, is as it was filled; a finder of learning rates may write to it and put it back."""
        self._fresh[name] = _fingerprint(weight)

    def knows_fresh(self, name: str, weight: Tensor) -> bool:
        """Whether ``weight`` holds what it held when it was fresh."""
        return self._fresh.get(name) == _fingerprint(weight)


def _fingerprint(weight: Tensor) -> tuple[float, float]:
    values = weight.detach().cpu().double()
    return float(values.sum()), float(values.square().sum())
