"""LT402: twice in one optimizer, or in two that step on the same batch."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tuning.rules._ownership import Ownership
from lightning_tuning.rules.parameter_optimised_twice import optimised_by_two, optimised_twice_by_one
from tests.rules.owning import sgd


def net_of_three() -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(2, 2) for name in ("encoder", "actor", "critic")})


def owned_by(net: nn.Module, *optimizers: Any) -> Ownership:
    return Ownership(net, optimizers, frozenset(id(p) for p in net.parameters()))


def stepped(owned: Ownership, *order: int) -> list[tuple[int, frozenset[int]]]:
    groups = owned.groups
    return [(i, frozenset(id(p) for g in groups if g.optimizer == i for _, p in g.parameters)) for i in order]


def test_twice_in_one_group() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own word on it
        optimizer = sgd([p for layer in net for p in layer.parameters()])
    (found,) = optimised_twice_by_one(owned_by(net, optimizer).groups)
    assert found.where == "SGD group 0"
    assert found.message == "`0.weight` stands 2 times in the optimizer"
    assert found.evidence == {"parameters": 1, "times": 2}


def test_in_two_groups_of_one() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = sgd(net.parameters())
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [net[1].bias]})  # around torch's own check
    (found,) = optimised_twice_by_one(owned_by(net, optimizer).groups)
    assert found.where == "SGD group 1"
    assert "`1.bias`" in found.message


@pytest.mark.parametrize(
    "make", [sgd, lambda p: torch.optim.AdamW([{"params": [q]} for q in p]), lambda p: torch.optim.LBFGS(list(p))]
)
def test_once_is_right(make: Any) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    assert optimised_twice_by_one(owned_by(net, make(net.parameters())).groups) == []


@pytest.mark.parametrize(
    ("first", "second", "order", "severity"),
    [
        (("encoder", "actor", "critic"), ("encoder", "actor", "critic"), (0, 1), "error"),
        (("actor",), ("encoder", "actor", "critic"), (0, 1), "error"),
        (("encoder", "actor"), ("encoder", "critic"), (0, 1), "info"),
        (("encoder", "actor", "critic"), ("encoder", "actor", "critic"), (0, 0, 0, 1), "info"),
        (("encoder", "actor", "critic"), ("encoder", "actor", "critic"), (0,), None),
        (("actor",), ("critic",), (0, 1), None),
        (("actor",), ("critic",), (), None),
    ],
    ids=["all in both", "one in the other", "shared encoder", "inner loop", "one after the other", "apart", "no step"],
)
def test_in_two_optimizers(
    first: tuple[str, ...], second: tuple[str, ...], order: tuple[int, ...], severity: str | None
) -> None:
    net = net_of_three()
    optimizers = [sgd([p for name in names for p in net[name].parameters()]) for names in (first, second)]
    owned = owned_by(net, *optimizers)
    found = optimised_by_two(owned, stepped(owned, *order))
    assert [str(finding.severity) for finding in found] == ([] if severity is None else [severity])
    assert all(finding.where == "SGD 0, SGD 1" for finding in found)


def test_a_third_for_a_loss_of_all() -> None:
    net = net_of_three()
    owned = owned_by(net, sgd(net["actor"].parameters()), sgd(net["critic"].parameters()), sgd(net.parameters()))
    found = optimised_by_two(owned, stepped(owned, 0, 1, 2))
    assert {str(finding.severity) for finding in found} == {"info"}


def test_without_a_gradient_nothing_is_moved() -> None:
    net = net_of_three()
    owned = owned_by(net, sgd(net["actor"].parameters()), sgd(net.parameters()))
    moved_by_second = frozenset(id(p) for p in net["critic"].parameters())
    assert optimised_by_two(owned, [stepped(owned, 0)[0], (1, moved_by_second)]) == []


def test_one_optimizer_listed_twice_is_one() -> None:
    net = net_of_three()
    optimizer = sgd(net.parameters())
    owned = owned_by(net, optimizer, optimizer)
    assert optimised_by_two(owned, stepped(owned, 0, 1)) == []
