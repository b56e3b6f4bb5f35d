"""Traces small nets for the tests of rules about heads and losses: ``from tests.rules.heads import traced``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tuning.trace import Graph, Recorder

CLASSES = 3


def data(samples: int = 16, features: int = 8) -> dict[str, Tensor]:
    """Inputs, classes, one-hot classes and values for each sample."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (samples,), generator=generator)
    return {
        "x": torch.randn(samples, features, generator=generator),
        "y": y,
        "hot": nn.functional.one_hot(y, CLASSES).float(),
        "v": torch.randn(samples, CLASSES, generator=generator),
    }


def traced(net: nn.Module, loss_of: Callable[[Any, dict[str, Tensor]], Tensor], batch: Any = None) -> Graph:
    """The graph of one training step of ``net`` whose loss is ``loss_of(net, batch)``."""
    batch = data() if batch is None else batch
    with Recorder(net, batch) as recorder:
        recorder.mark_loss(loss_of(net, batch))
    graph = recorder.graph
    assert graph.blind == []
    return graph
