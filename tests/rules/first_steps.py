"""First steps of small nets as graphs, for the rules about initialisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.rules._weight_facts import WeightFacts, weight_facts
from lightning_tuning.trace import Graph, Recorder

Loss = Callable[[Tensor, Tensor], Tensor]


class Step(NamedTuple):
    """What the rules are given."""

    graph: Graph
    parameters: dict[str, Tensor]
    facts: dict[str, WeightFacts]
    batch: dict[str, Tensor]


def first_step(net: nn.Module, x: Tensor, y: Tensor | None = None, loss: Loss = F.cross_entropy) -> Step:
    """One forward pass of ``net`` up to ``loss(net(x), y)``; without targets the mean square of the output."""
    with Recorder(net, (x, y)) as recorder:
        out = net(x)
        recorder.mark_loss(out.square().mean() if y is None else loss(out, y))
    parameters: dict[str, Tensor] = dict(net.named_parameters())
    batch = {"batch[0]": x} | ({} if y is None else {"batch[1]": y})
    return Step(recorder.graph, parameters, weight_facts(parameters), batch)


class Functional(nn.Module):
    """``act(x @ first) @ second``, with parameters of its own."""

    def __init__(self, first: Tensor, second: Tensor, act: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x @ self.first) @ self.second
