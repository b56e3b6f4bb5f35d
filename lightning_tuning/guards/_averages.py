"""Averages of the weights that Lightning's own callbacks keep."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import nn

__all__ = ["Average", "averaged", "is_averaged_epoch", "stand_before_averages"]


class Average:
    """The averaged copy of the weights in one callback."""

    def __init__(self, callback: WeightAveraging | StochasticWeightAveraging, model: nn.Module) -> None:
        self._callback: Any = callback
        self.model = model

    @property
    def count(self) -> Any:
        """How many weights were averaged, where the model does not count that itself."""
        return getattr(self._callback, "n_averaged", None)

    @count.setter
    def count(self, count: Any) -> None:
        if hasattr(self._callback, "n_averaged"):
            self._callback.n_averaged = count


def averaged(trainer: Trainer) -> list[Average]:
    """What ``EMAWeightAveraging``, ``WeightAveraging`` and ``StochasticWeightAveraging`` of this run hold."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector of Lightning's
    found = [callback for callback in callbacks if isinstance(callback, WeightAveraging | StochasticWeightAveraging)]
    return [Average(c, c._average_model) for c in found if isinstance(c._average_model, nn.Module)]


def stand_before_averages(trainer: Trainer, guard: Callback) -> None:
    """Give ``guard`` its place before the callbacks that average weights and buffers: they see what it left of a batch.

    In ``setup`` the hooks of ``trainer.callbacks`` are under way; none is called twice or left out by this.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    places = [i for i, c in enumerate(callbacks) if isinstance(c, WeightAveraging | StochasticWeightAveraging)]
    if guard in callbacks and places and places[0] < callbacks.index(guard):
        callbacks.remove(guard)
        callbacks.insert(places[0], guard)


def is_averaged_epoch(trainer: Trainer) -> bool:
    """Whether the weights of this epoch are SWA's average: its last one, which renews batch norm and trains nothing."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return any(
        isinstance(c, StochasticWeightAveraging) and c._max_epochs != -1 and trainer.current_epoch == c.swa_end + 1
        for c in callbacks
    )
