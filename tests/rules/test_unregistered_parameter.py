"""LT403: parameters where torch does not look, and what only looks like them."""

from __future__ import annotations

import copy
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tuning.rules._ownership import hidden_parameters
from lightning_tuning.rules.unregistered_parameter import unregistered_parameters
from tests.rules.owning import after_backward, sgd

X = torch.ones(2, 4)


class Holder(nn.Module):
    """Registered: ``linear``. Whatever else it is given, it keeps."""

    def __init__(self, **kept: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        for name, value in kept.items():
            setattr(self, name, value)


def layer() -> nn.Linear:
    return nn.Linear(4, 4)


def weight() -> nn.Parameter:
    return nn.Parameter(torch.ones(4))


@pytest.mark.parametrize(
    ("make", "container", "path", "kind"),
    [
        (lambda: Holder(layers=[layer()]), "layers", "layers[0].weight", "ModuleList"),
        (lambda: Holder(layers=(layer(), layer())), "layers", "layers[0].weight", "ModuleList"),
        (lambda: Holder(heads={"a": layer()}), "heads", "heads['a'].weight", "ModuleDict"),
        (lambda: Holder(scales=[weight()]), "scales", "scales[0]", "ParameterList"),
        (lambda: Holder(scales={"a": weight()}), "scales", "scales['a']", "ParameterDict"),
        (lambda: Holder(deep=[[1, (layer(),)]]), "deep", "deep[0][1][0].weight", "ModuleList"),
        (lambda: Holder(deep={"a": [weight()]}), "deep", "deep['a'][0]", "ParameterDict"),
        (lambda: Holder(some={weight()}), "some", "some[0]", "ParameterList"),
        (lambda: Holder(some=deque([weight()])), "some", "some[0]", "ParameterList"),
        (lambda: nn.Sequential(layer(), Holder(scales=[weight()])), "1.scales", "1.scales[0]", "ParameterList"),
        (lambda: Holder(layers=[nn.LazyLinear(4)]), "layers", "layers[0].weight", "ModuleList"),
    ],
)
def test_hidden(make: Callable[[], nn.Module], container: str, path: str, kind: str) -> None:
    found = next(iter(hidden_parameters(make())))
    assert (found.container, found.path, found.kind) == (container, path, kind)


def registered_elsewhere() -> nn.Module:
    holder = Holder(again=[])
    holder.again.extend([holder.linear, holder.linear.bias])
    return holder


@pytest.mark.parametrize(
    "make",
    [
        lambda: Holder(layers=nn.ModuleList([layer()]), scales=nn.ParameterDict({"a": weight()})),
        registered_elsewhere,
        lambda: Holder(reference=[weakref.ref(layer())]),
        lambda: Holder(losses=[nn.CrossEntropyLoss(), nn.MSELoss()], names={"a": "b"}, sizes=[1, 2]),
        lambda: Holder(tensors=[torch.ones(3)], words=["a"] * 100_000),
        lambda: Holder(hidden=[layer().eval()]),
        lambda: nn.LSTM(4, 4),  # keeps its weights in a list of its own
        lambda: nn.utils.parametrizations.weight_norm(layer()),
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 1, 4), 1, enable_nested_tensor=False),
    ],
)
def test_not_hidden(make: Callable[[], nn.Module]) -> None:
    assert list(hidden_parameters(make())) == []


def test_a_container_that_holds_itself_ends() -> None:
    ring: list[Any] = []
    ring.append(ring)
    assert list(hidden_parameters(Holder(ring=ring))) == []


def test_lost() -> None:
    net = Holder(layers=[layer(), layer()])
    loss = net.layers[1](net.layers[0](net.linear(X))).sum()
    owned = after_backward(net, [sgd(net.parameters())], loss)
    (found,) = unregistered_parameters(owned, lines={(4, 4): "net.py:3"})
    assert str(found.severity) == "error"
    assert (found.where, found.source_line) == ("layers", "net.py:3")
    assert found.evidence == {"parameters": 4, "elements": 40, "first": "layers[0].weight"}
    assert found.remedy == "`self.layers = nn.ModuleList(...)`."


def test_handed_to_the_optimizer() -> None:
    net = Holder(scales=[weight()])
    owned = after_backward(net, [sgd([*net.parameters(), *net.scales])], (net.linear(X) * net.scales[0]).sum())
    (found,) = unregistered_parameters(owned)
    assert str(found.severity) == "warning"
    assert "no checkpoint" in found.message
    assert unregistered_parameters(owned, saves_itself=True) == []


def test_moved_by_hand() -> None:
    net = Holder(scales=[weight()])
    loss = (net.linear(X) * net.scales[0]).sum()
    owned = after_backward(net, [sgd(net.parameters())], loss, rewritten=net.scales)
    assert unregistered_parameters(owned) == []


@pytest.mark.parametrize("use", ["nothing", "no_grad", "frozen"])
def test_without_gradient_nothing_is_lost(use: str) -> None:
    net = Holder()
    net.teacher = [copy.deepcopy(net.linear)]
    loss = net.linear(X).sum()
    if use == "no_grad":
        with torch.no_grad():
            target = net.teacher[0](X)
        loss = (net.linear(X) - target).square().sum()
    if use == "frozen":
        net.teacher[0].requires_grad_(False)
        loss = (net.linear(X) - net.teacher[0](X)).square().sum()
    assert unregistered_parameters(after_backward(net, [sgd(net.parameters())], loss)) == []


def test_containers_that_hold_themselves_and_long_ones_cost_little() -> None:
    net = nn.Linear(2, 2)
    net.ring = [net]
    net.ring.append(net.ring)
    net.tokens = {number: [number, "text", None] for number in range(100_000)}
    assert list(hidden_parameters(net)) == []
    net.ring.append([nn.Parameter(torch.zeros(3))])
    assert [found.path for found in hidden_parameters(net)] == ["ring[2][0]"]
