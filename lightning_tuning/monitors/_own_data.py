"""Do the training data come from the net itself?"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import nn

__all__ = ["comes_from_the_net"]


def comes_from_the_net(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether the training data set holds the module, or a part of it, as one that plays with the present policy does.

    What such data are changes with every update, and the loss with them.
    """
    parts = {id(module) for module in pl_module.modules()}
    dataset: Any = getattr(trainer.train_dataloader, "dataset", None)
    for _ in range(3):  # through Subset and the like
        attributes = list(getattr(dataset, "__dict__", {}).values())
        if any(isinstance(value, nn.Module) and id(value) in parts for value in attributes):
            return True
        dataset = getattr(dataset, "dataset", None)
    return False
