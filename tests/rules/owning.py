"""One backward pass through a module, as the rules of ownership see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tuning.rules._ownership import Ownership, hidden_parameters


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def after_backward(module: nn.Module, optimizers: Sequence[Any], loss: Tensor, rewritten: Sequence[Tensor] = ()) -> Any:
    """``loss`` has gone backward, no optimizer has stepped yet."""
    loss.backward()
    hidden = [found.parameter for found in hidden_parameters(module)]
    held = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    graded = frozenset(id(p) for p in [*module.parameters(), *hidden, *held] if p.grad is not None)
    return Ownership(module, optimizers, graded, frozenset(id(p) for p in rewritten))
