"""Graphs of one step of a small net, for the verdicts of rules: ``from tests.rules.graphs import step_of``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.trace import Graph, Recorder

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Lambda(nn.Module):
    """A function as a module, with the modules that it uses."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.function = [forward]

    def forward(self, *args: Any) -> Any:
        return self.function[0](self.parts, *args)


def classes(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross entropy against class indices."""
    return F.cross_entropy(net(x), y)


def squares(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Squared error against values of the batch."""
    prediction = net(x)
    return F.mse_loss(prediction, y.float()[:, None].expand_as(prediction))


def step_of(net: nn.Module, x: Tensor, loss: Loss = classes, *, training: bool = True, seed: int = 0) -> Graph:
    """The graph of ``loss(net, x, y)``, where ``y`` are classes 0 and 1 in turn."""
    torch.manual_seed(seed)
    y = torch.arange(len(x)) % 2
    net.train(training)
    with Recorder(net, [x, y]) as recorder:
        recorder.mark_loss(loss(net, x, y))
    return recorder.graph


def rows(samples: int = 16, *shape: int) -> Tensor:
    """Normal numbers ``[samples, *shape]``; eight features unless told."""
    return torch.randn(samples, *(shape or (8,)), generator=torch.Generator().manual_seed(0))
