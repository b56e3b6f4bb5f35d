"""Who sets the gradients back."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

__all__ = ["has_own_zero_grad"]


def has_own_zero_grad(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether somebody else than Lightning and torch sets gradients back between updates, or may forget to.

    True under manual optimization, for a module with an ``optimizer_zero_grad`` of its own, and for an optimizer with a
    ``zero_grad`` of its own.
    """
    if not pl_module.automatic_optimization:
        return True
    if not _is(pl_module.optimizer_zero_grad, LightningModule.optimizer_zero_grad):
        return True
    known = torch.optim.Optimizer.zero_grad
    return any(not _is(getattr(optimizer, "zero_grad", known), known) for optimizer in trainer.optimizers)


def _is(method: Any, function: Any) -> bool:
    return getattr(method, "__func__", method) is function
