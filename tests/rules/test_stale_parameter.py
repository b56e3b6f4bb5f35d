"""LT404: what an optimizer holds of a module that is gone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_tuning.rules.parameter_not_optimised import parameters_not_optimised
from lightning_tuning.rules.stale_parameter import stale_parameters, successors
from tests.rules.owning import after_backward, sgd

X = torch.ones(2, 8)


def body_and_head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))


@pytest.mark.parametrize("classes", [10, 3])
def test_a_replaced_head(classes: int) -> None:
    net = body_and_head()
    optimizer = sgd(net.parameters())
    net[2] = nn.Linear(8, classes)
    owned = after_backward(net, [optimizer], net(X).square().mean())
    (found,) = stale_parameters(owned)
    assert found.where == "2"
    assert "`2.weight`, `2.bias`" in found.message
    assert found.evidence == {"parameters": 2, "elements": 9 * classes, "group": "SGD group 0"}
    assert parameters_not_optimised(owned, explained=successors(owned)) == []


def test_everything_replaced() -> None:
    net = nn.ModuleDict({"net": body_and_head()})
    optimizer = torch.optim.AdamW(net.parameters())
    net["net"] = body_and_head()
    (found,) = stale_parameters(after_backward(net, [optimizer], net["net"](X).square().mean()))
    assert found.where == "net.0"
    assert found.evidence["parameters"] == 4


def test_one_parameter_replaced() -> None:
    net = nn.Linear(8, 2)
    optimizer = sgd(net.parameters())
    net.bias = nn.Parameter(torch.zeros(2))
    (found,) = stale_parameters(after_backward(net, [optimizer], net(X).square().mean()))
    assert found.where == "bias"


def test_replaced_in_time() -> None:
    net = body_and_head()
    net[2] = nn.Linear(8, 3)
    assert stale_parameters(after_backward(net, [sgd(net.parameters())], net(X).square().mean())) == []


def test_replaced_and_added_to_the_optimizer() -> None:
    net = body_and_head()
    optimizer = sgd(net.parameters())
    net[2] = nn.Linear(8, 3)
    optimizer.add_param_group({"params": list(net[2].parameters())})
    assert stale_parameters(after_backward(net, [optimizer], net(X).square().mean())) == []


def test_a_loss_of_its_own() -> None:
    net = body_and_head()
    net[2].requires_grad_(False)
    centres = nn.Parameter(torch.zeros(10))
    optimizer = sgd([*net[0].parameters(), centres])
    assert stale_parameters(after_backward(net, [optimizer], (net(X) - centres).square().mean())) == []


def test_tied_afterwards() -> None:
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False))
    optimizer = sgd(net.parameters())
    net[2].weight = net[0].weight
    assert stale_parameters(after_backward(net, [optimizer], net(X).square().mean())) == []


def test_kept_in_a_list() -> None:
    net = body_and_head()
    net[2].requires_grad_(True)
    net.old = [nn.Linear(8, 10)]
    optimizer = sgd([*net[0].parameters(), *net.old[0].parameters()])
    assert stale_parameters(after_backward(net, [optimizer], net(X).square().mean())) == []


def test_copies_of_another_type() -> None:
    net = body_and_head()
    masters = [p.detach().double().requires_grad_() for p in net.parameters()]
    assert stale_parameters(after_backward(net, [sgd(masters)], net(X).square().mean())) == []


def test_flat_pieces() -> None:
    net = body_and_head()
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert stale_parameters(after_backward(net, [sgd([flat])], net(X).square().mean())) == []


def test_lazy_and_compiled() -> None:
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))
    optimizer = sgd(net.parameters())
    compiled = torch.compile(net, backend="eager")
    loss = net(X).square().mean()
    assert stale_parameters(after_backward(compiled, [optimizer], loss)) == []
