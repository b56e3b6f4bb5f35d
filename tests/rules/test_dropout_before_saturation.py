from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.rules.dropout_before_saturation import dropouts_before_saturation
from lightning_tuning.trace import Graph
from tests.rules.graphs import Lambda, rows, step_of


def stack(activation: nn.Module, *, before: bool = True) -> nn.Module:
    pair = [nn.Dropout(0.2), activation]
    return nn.Sequential(nn.Linear(8, 16), *(pair if before else reversed(pair)), nn.Linear(16, 2))


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Tanh(), nn.Softmax(1), nn.Hardsigmoid()])
def test_before_saturation(activation: nn.Module) -> None:
    (found,) = dropouts_before_saturation(step_of(stack(activation), rows()))
    assert found.where == "1"
    assert found.evidence["activation"] in found.message
    assert dropouts_before_saturation(step_of(stack(activation, before=False), rows())) == []
    assert dropouts_before_saturation(step_of(stack(activation), rows(), training=False)) == []


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(), nn.PReLU(), nn.GELU(), nn.SiLU(), nn.ELU()])
def test_never_before_what_does_not_saturate(activation: nn.Module) -> None:
    assert dropouts_before_saturation(step_of(stack(activation), rows())) == []


def reshaped(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    return parts["head"](F.dropout(parts["body"](x), 0.1).view(-1, 4, 4).flatten(1).tanh())


def test_seen_through_a_reshape() -> None:
    net = Lambda(reshaped, body=nn.Linear(8, 16), head=nn.Linear(16, 2))
    assert [finding.where for finding in dropouts_before_saturation(step_of(net, rows()))] == [""]


def silu_by_hand(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    x = F.dropout(parts["body"](x), 0.1)
    return parts["head"](x * x.sigmoid())


def attention(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    """Dropped queries, and a product between them and the softmax."""
    query = F.dropout(parts["body"](x), 0.1)
    return parts["head"]((query @ query.T).softmax(-1) @ query)


def weights_dropped(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    hidden = parts["body"](x)
    return parts["head"](F.dropout((hidden @ hidden.T).softmax(-1), 0.1) @ hidden)


def pooler(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    return parts["head"](F.dropout(parts["body"](x).tanh(), 0.1))


def output(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    """Another rule's."""
    return F.dropout(parts["body"](x), 0.1).log_softmax(1)


@pytest.mark.parametrize("forward", [silu_by_hand, attention, weights_dropped, pooler, output])
def test_quiet(forward) -> None:
    net = Lambda(forward, body=nn.Linear(8, 16), head=nn.Linear(16, 2))
    loss = (lambda net, x, y: F.nll_loss(net(x), y)) if forward is output else None
    graph = step_of(net, rows()) if loss is None else step_of(net, rows(), loss)
    assert dropouts_before_saturation(graph) == []


def test_nothing_at_all() -> None:
    assert dropouts_before_saturation(Graph()) == []
