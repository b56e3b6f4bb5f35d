"""LT401: what gets a gradient and is in no optimizer; what is left out on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from lightning_tuning import Severity
from lightning_tuning.rules.parameter_not_optimised import parameters_not_optimised
from tests.rules.owning import after_backward, sgd

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two linear layers, a bias added between them that lies in the net itself, and a low-rank adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.shift = nn.Parameter(torch.zeros(8))
        self.body = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU())
        self.adapter = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.first(x) + self.shift)
        return self.head(x + self.adapter(x))


Choice = Callable[[Net], Iterable[nn.Parameter]]


def named(net: nn.Module, wanted: Callable[[str], bool]) -> list[nn.Parameter]:
    return [parameter for name, parameter in net.named_parameters() if wanted(name)]


@pytest.mark.parametrize(
    ("choice", "where", "severity", "count"),
    [
        (lambda net: named(net, lambda name: name != "shift"), "shift", "error", 1),
        (lambda net: named(net, lambda name: name != "first.bias"), "first.bias", "error", 1),
        (lambda net: named(net, lambda name: not name.endswith("bias")), "first.bias", "error", 4),
        (lambda net: net.head.parameters(), "body", "info", 4),
        (lambda net: named(net, lambda name: not name.startswith("body")), "body", "info", 1),
        (lambda net: named(net, lambda name: name.endswith("bias")), "first.weight", "info", 6),
        (lambda net: named(net, lambda name: name.startswith(("adapter", "head"))), "body", "info", 3),
    ],
    ids=["one of the root", "one of a layer", "all biases", "head only", "body left out", "biases only", "adapter"],
)
def test_left_out(choice: Choice, where: str, severity: str, count: int) -> None:
    net = Net()
    found = parameters_not_optimised(after_backward(net, [sgd(choice(net))], net(X).square().mean()))
    first = found[0]
    assert (first.where, str(first.severity)) == (where, severity)
    assert first.evidence.get("parameters", first.evidence.get("modules")) == count
    assert first.evidence["elements"] > 0
    assert all(finding.severity is Severity.INFO for finding in found[1:])


def test_a_long_list_is_cut_short() -> None:
    net = Net()
    choice = named(net, lambda name: not name.endswith("bias"))
    (found,) = parameters_not_optimised(after_backward(net, [sgd(choice)], net(X).square().mean()))
    assert found.message.startswith("`first.bias`, `body.0.bias`, `body.1.bias` and 1 more: in no optimizer, though")


def test_everything_is_optimised() -> None:
    net = Net()
    assert parameters_not_optimised(after_backward(net, [sgd(net.parameters())], net(X).square().mean())) == []


def test_two_optimizers_share_the_work() -> None:
    net = Net()
    others = [p for p in net.parameters() if all(p is not mine for mine in net.head.parameters())]
    optimizers = [sgd(net.head.parameters()), sgd(others)]
    assert parameters_not_optimised(after_backward(net, optimizers, net(X).square().mean())) == []


def test_in_groups() -> None:
    net = Net()
    groups = [{"params": [p]} for p in net.parameters()]
    assert parameters_not_optimised(after_backward(net, [sgd(groups)], net(X).square().mean())) == []


def test_frozen_is_not_forgotten() -> None:
    net = Net()
    net.shift.requires_grad_(False)
    trained = [p for p in net.parameters() if p.requires_grad]
    assert parameters_not_optimised(after_backward(net, [sgd(trained)], net(X).square().mean())) == []


def test_a_teacher_gets_no_gradient() -> None:
    net = Net()
    net.teacher = nn.Linear(8, 2)
    with torch.no_grad():
        target = net.teacher(X)
    students = named(net, lambda name: not name.startswith("teacher"))
    assert parameters_not_optimised(after_backward(net, [sgd(students)], (net(X) - target).square().mean())) == []


def test_moved_by_hand() -> None:
    net = Net()
    rest = named(net, lambda name: name != "shift")
    assert parameters_not_optimised(after_backward(net, [sgd(rest)], net(X).square().mean(), [net.shift])) == []


def test_an_optimizer_of_copies() -> None:
    net, copies = Net(), Net()  # as with an engine that keeps flat pieces of everything
    assert parameters_not_optimised(after_backward(net, [sgd(copies.parameters())], net(X).square().mean())) == []


def test_tied_weights_are_one() -> None:
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8))
    net[2].weight = net[0].weight
    optimizer = sgd([net[2].weight, net[2].bias])
    assert parameters_not_optimised(after_backward(net, [optimizer], net(X).square().mean())) == []


def test_lazy_layers() -> None:
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))
    optimizer = sgd(net.parameters())
    assert parameters_not_optimised(after_backward(net, [optimizer], net(X).square().mean())) == []


def test_spoken_of_elsewhere() -> None:
    net = Net()
    rest = named(net, lambda name: name != "shift")
    owned = after_backward(net, [sgd(rest)], net(X).square().mean())
    assert parameters_not_optimised(owned, explained={"shift"}) == []
