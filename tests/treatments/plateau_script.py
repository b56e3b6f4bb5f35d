"""A run whose validation metric is written down beforehand, and the rule of ReduceLROnPlateau by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

BATCHES = 4
LR = 1.0

Script = Callable[[int, int], float]


def per_epoch(values: Sequence[float]) -> Script:
    """The metric of each epoch, the last one for ever."""
    return partial(_read, list(values), None)


def per_steps(values: Sequence[float], steps: int) -> Script:
    """The metric after every ``steps`` optimizer steps."""
    return partial(_read, list(values), steps)


def _read(values: list[float], steps: int | None, epoch: int, step: int) -> float:
    return values[min(epoch if steps is None else step // steps - 1, len(values) - 1)]


def _as_it_is(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    return optimizer


class Scripted(pl.LightningModule):
    """One linear layer on fixed data; ``val_loss`` comes from a script, ``lrs`` is the rate that each epoch began with.

    Args:
        script: ``val_loss`` by epoch and global step; depends on nothing else, so a resumed run reads on.
        metric: its name.
        configure: makes what ``configure_optimizers`` returns out of the optimizer.
    """

    def __init__(
        self, script: Script, *, metric: str = "val_loss", configure: Callable[[Any], Any] = _as_it_is
    ) -> None:
        super().__init__()
        self.script, self.metric, self.configure = script, metric, configure
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(3, generator=generator) * 0.1)
        self.data = TensorDataset(torch.randn(2 * BATCHES, 3, generator=generator) * 0.1)
        self.lrs: dict[int, float] = {}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.lrs.setdefault(self.current_epoch, self.rate)
        loss = (batch[0] @ self.weight).square().mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        # An epoch's mean over four batches of the script's value and .25 more, known only when the last batch is done.
        self.log("scripted_train", self.script(self.current_epoch, -1) + batch_idx / 6, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.log(self.metric, self.script(self.current_epoch, self.global_step))

    @property
    def rate(self) -> float:
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        return self.configure(torch.optim.SGD(self.parameters(), lr=LR))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=2)

    val_dataloader = train_dataloader


def plateau_rates(
    values: Sequence[float],
    *,
    lr: float = LR,
    factor: float = 0.5,
    patience: int = 5,
    threshold: float = 1e-4,
    mode: str = "min",
    absolute: bool = False,
    cooldown: int = 0,
    min_lr: float = 0.0,
    eps: float = 1e-8,
) -> list[float]:
    """The rate after each of ``values``, counted by hand."""
    sign = 1 if mode == "min" else -1
    best, bad, calm, rates = math.inf, 0, 0, []
    for value in values:
        # The improvement that is asked for: none for the first reading, which beats the infinitely bad one.
        margin = threshold if absolute else threshold * (0.0 if math.isinf(best) else sign * best)
        if sign * value < best - margin:
            best, bad = sign * value, 0
        else:
            bad += 1
        if calm > 0:
            calm, bad = calm - 1, 0
        if bad > patience:
            lowered = max(lr * factor, min_lr)
            lr = lowered if lr - lowered > eps else lr
            calm, bad = cooldown, 0
        rates.append(lr)
    return rates
