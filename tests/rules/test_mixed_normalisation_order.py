from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_tuning.rules.mixed_normalisation_order import mixed_orders
from lightning_tuning.trace import Graph
from tests.rules.graphs import Lambda, rows, step_of


def blocks(orders: str) -> nn.Module:
    layers: list[nn.Module] = []
    for order in orders:
        pair = [nn.BatchNorm1d(8), nn.ReLU()]
        layers += [nn.Linear(8, 8), *(pair if order == "b" else reversed(pair))]
    return nn.Sequential(*layers, nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("orders", "found"),
    [("", False), ("bbbb", False), ("aaaa", False), ("bbba", False), ("abbb", False), ("bbaa", True), ("ababa", True)],
)
def test_orders(orders: str, *, found: bool) -> None:
    finding = mixed_orders(step_of(blocks(orders), rows()))
    assert (finding is not None) == found
    if finding is not None:
        assert finding.evidence["before_activation"] == orders.count("b")
        assert finding.evidence["after_activation"] == orders.count("a")


def preactivated(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    for i in range(3):
        out = parts[f"first{i}"](parts[f"norm{i}"](x).relu())
        x = x + parts[f"second{i}"](parts[f"inner{i}"](out).relu())
    return parts["head"](parts["last"](x).relu())


def dense(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    """Each block takes all before it; the first one's norm stands behind the stem's activation."""
    x = parts["last"](parts["first0"](x)).relu()
    for i in range(3):
        x = torch.cat([x, parts[f"second{i}"](parts[f"norm{i}"](x[:, :8]).relu())], 1)
    return parts["head"](x[:, :8])


@pytest.mark.parametrize("forward", [preactivated, dense])
def test_nets_that_activate_first_are_quiet(forward) -> None:
    parts: dict[str, nn.Module] = {"head": nn.Linear(8, 2), "last": nn.BatchNorm1d(8)}
    for i in range(3):
        parts |= {f"first{i}": nn.Linear(8, 8), f"second{i}": nn.Linear(8, 8)}
        parts |= {f"norm{i}": nn.BatchNorm1d(8), f"inner{i}": nn.BatchNorm1d(8)}
    assert mixed_orders(step_of(Lambda(forward, **parts), rows())) is None


def test_nothing_at_all() -> None:
    assert mixed_orders(Graph()) is None
