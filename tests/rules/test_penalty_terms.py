"""Which summands of a loss are norms of parameters, however they are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.rules._penalty_terms import PenaltyTerm, penalty_terms
from lightning_tuning.trace import Graph
from tests.rules.graphs import classes, rows, step_of

Add = Callable[[nn.Sequential, Tensor], Tensor]


def graph_of(add: Add, finish: Callable[[Tensor], Tensor] = lambda loss: loss) -> Graph:
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    return step_of(net, rows(), lambda net, x, y: finish(classes(net, x, y) + add(net, x)))


def every(measure: Callable[[Tensor], Tensor], start: object = 0) -> Add:
    return lambda net, x: 1e-3 * sum((measure(p) for p in net.parameters()), start=start)


PENALTIES: dict[str, Add] = {
    "absolute values": every(lambda p: p.abs().sum()),
    "torch.abs": every(lambda p: torch.abs(p).mean()),
    "squares": every(lambda p: (p**2).sum()),
    "pow": every(lambda p: p.pow(2.0).sum()),
    "square": every(lambda p: torch.square(p).mean()),
    "products": every(lambda p: (p * p).sum()),
    "root of squares": every(lambda p: (p.pow(2).sum() + 1e-12).sqrt()),
    "norm": every(lambda p: p.norm()),
    "norm of order 1": every(lambda p: torch.norm(p, 1)),
    "linalg.norm": every(torch.linalg.norm),
    "linalg.vector_norm": every(lambda p: torch.linalg.vector_norm(p, ord=1)),
    "l1_loss to zeros": every(lambda p: F.l1_loss(p, torch.zeros_like(p), reduction="sum")),
    "into a tensor": every(lambda p: p.norm(2), start=torch.tensor(0.0, requires_grad=True)),
    "all in one": lambda net, x: 1e-3 * torch.cat([p.view(-1) for p in net.parameters()]).norm(2) ** 2,
    "stacked": lambda net, x: 1e-3 * torch.stack([p.norm() for p in net.parameters()]).sum(),
    "by groups": lambda net, x: 1e-2 * net[0].weight.norm(dim=1).sum(),
    "one layer": lambda net, x: net[2].weight.abs().sum(),
    "a coefficient that is a tensor": lambda net, x: torch.tensor(0.1) * net[0].weight.abs().sum(),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_is_seen(name: str) -> None:
    (term,) = penalty_terms(graph_of(PENALTIES[name]))
    assert term.factor == 1


OTHERS: dict[str, Add] = {
    "nothing": lambda net, x: torch.tensor(1.0),
    "a learned temperature (Kendall)": lambda net, x: net[0].bias[0],
    "towards another point": lambda net, x: ((net[0].weight + 1) ** 2).sum(),
    "towards the weights before": lambda net, x: ((net[0].weight - torch.ones(4, 8)) ** 2).sum(),
    "towards a tensor": lambda net, x: F.mse_loss(net[0].weight, torch.ones(4, 8)),
    "orthogonality": lambda net, x: (net[0].weight @ net[0].weight.T - torch.eye(4)).norm(),
    "a Gaussian prior (Bayes by backprop)": lambda net, x: (
        net[0].weight.square().sum() - 2 * torch.log(F.softplus(net[0].bias)).sum()
    ),
    "an unknown power": lambda net, x: net[0].weight.abs().pow(torch.tensor(1.5)).sum(),
    "activations": lambda net, x: net[0](x).abs().sum(),
    "rows that the batch chooses": lambda net, x: net[0].weight[x[:, 0].long().abs() % 4].norm(),
    "no gradient": lambda net, x: net[0].weight.detach().norm(),
    "a sum without a norm": lambda net, x: net[0].weight.sum(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_not(name: str) -> None:
    assert penalty_terms(graph_of(OTHERS[name])) == []


def test_a_loss_that_is_nothing_but_a_norm_has_no_penalty() -> None:
    net = nn.Sequential(nn.Linear(8, 2))
    assert penalty_terms(step_of(net, rows(), lambda net, x, y: net[0].weight.norm())) == []


def test_several_penalties_on_their_ways() -> None:
    def twice(net: nn.Sequential, x: Tensor) -> Tensor:
        return 1e-3 * net[0].weight.abs().sum() + 1e-4 * net[2].weight.norm()

    graph = graph_of(twice, finish=lambda loss: loss * torch.tensor(8.0) / 4)
    found = penalty_terms(graph)
    assert len(found) == 1, "what is a sum of norms is one penalty"
    assert isinstance(found[0], PenaltyTerm)
    assert found[0].factor == 0.25
    assert [graph.values[index].shape for index in found[0].multiplied_by] == [()]
    assert found[0].divided_by == ()


def test_penalties_added_one_by_one() -> None:
    def loss(net: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
        total = classes(net, x, y)
        for p in net.parameters():
            total += 1e-3 * p.abs().sum()
        return torch.stack([total, classes(net, x, y)]).mean()

    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    assert [term.factor for term in penalty_terms(step_of(net, rows(), loss))] == [0.5] * 4


def test_a_frozen_parameter_is_no_penalty() -> None:
    net = nn.Sequential(nn.Linear(8, 4).requires_grad_(False), nn.ReLU(), nn.Linear(4, 2))
    assert penalty_terms(step_of(net, rows(), lambda net, x, y: classes(net, x, y) + net[0].weight.norm())) == []


def test_an_empty_graph() -> None:
    assert penalty_terms(Graph()) == []
