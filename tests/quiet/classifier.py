"""A classifier as most people write it: the net, the optimizer and the schedule come from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy

MakeOptimizer = Callable[[Any], Optimizer]


def adamw(lr: float = 2e-3, **settings: Any) -> MakeOptimizer:
    return lambda parameters: torch.optim.AdamW(parameters, lr=lr, **settings)


def sgd(lr: float = 0.05, **settings: Any) -> MakeOptimizer:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **{"momentum": 0.9, **settings})


class Classifier(pl.LightningModule):
    """Cross entropy, accuracy on validation data.

    Args:
        net: gives logits.
        optimizer: is made of the parameters.
        schedule: is made of the optimizer and the number of steps, and stepped after each of them.
        loss: of logits and classes.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: MakeOptimizer = torch.optim.AdamW,
        *,
        schedule: Callable[[Optimizer, int], Any] | None = None,
        loss: nn.Module | None = None,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.net = net
        self.criterion = nn.CrossEntropyLoss() if loss is None else loss
        self.val_acc = MulticlassAccuracy(classes, average="micro")
        self._make_optimizer, self._make_schedule = optimizer, schedule

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = self.criterion(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.val_acc(logits, y)
        self.log("val_loss", self.criterion(logits, y))
        self.log("val_acc", self.val_acc)

    def configure_optimizers(self) -> Any:
        optimizer = self._make_optimizer([p for p in self.parameters() if p.requires_grad])
        if self._make_schedule is None:
            return optimizer
        schedule = self._make_schedule(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
