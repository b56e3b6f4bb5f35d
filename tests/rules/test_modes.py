"""LT320 and LT321: modes that do not fit what the run is doing, and those that somebody chose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning import Finding
from lightning_tuning.rules.eval_mode_in_training import eval_modes_in_training
from lightning_tuning.rules.train_mode_in_evaluation import modes_of_interest, train_modes_in_evaluation
from lightning_tuning.trace import Recorder

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A body with batch norm and dropout, and a head with another dropout, as modules or as functions."""

    def __init__(self, *, functional: bool = False) -> None:
        super().__init__()
        norm: nn.Module = Norm() if functional else nn.BatchNorm1d(8)
        self.body = nn.Sequential(nn.Linear(8, 8), norm, Drop() if functional else nn.Dropout(0.2))
        self.head = nn.Sequential(Drop() if functional else nn.Dropout(0.2), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Drop(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.2, self.training)


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.scale, training=self.training)


def judged(net: Any, *, forward: Any = None, held: Any = None) -> list[tuple[str, str]]:
    with Recorder(net, X) as recorder:
        recorder.mark_loss((forward or net)(X).square().mean())
    held = net.parameters() if held is None else held
    found = eval_modes_in_training(net, recorder.graph, {id(p) for p in held})
    return [(str(finding.severity), finding.where) for finding in found]


def bn_eval(net: Net) -> None:
    net.body[1].eval()


def bn_with_statistics(net: Net) -> None:
    net.body[1].running_mean.fill_(0.5)
    net.body[1].eval()


def bn_frozen(net: Net) -> None:
    bn_eval(net)
    net.requires_grad_(False)
    net.head.requires_grad_(True)


def one_dropout(net: Net) -> None:
    net.body[2].eval()


def every_dropout(net: Net) -> None:
    net.body[2].eval()
    net.head[0].eval()


def the_body(net: Net) -> None:
    net.body.eval()


def the_frozen_body(net: Net) -> None:
    net.body.eval().requires_grad_(False)


def all_of_it(net: Net) -> None:
    net.eval()


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda net: None, []),
        (bn_eval, [("error", "body.1")]),
        (bn_with_statistics, []),
        (bn_frozen, []),
        (one_dropout, [("error", "body.2")]),
        (every_dropout, [("info", "body.2")]),
        (the_body, [("info", "body")]),
        (the_frozen_body, []),
        (all_of_it, [("error", "")]),  # a batch norm without statistics is in it
    ],
)
def test_training(prepare: Callable[[Net], None], expected: list[tuple[str, str]], functional: bool) -> None:
    net = Net(functional=functional)
    prepare(net)
    assert judged(net) == expected


def test_the_remedy_is_code() -> None:
    net = Net()
    one_dropout(net)
    with Recorder(net, X) as recorder:
        recorder.mark_loss(net(X).square().mean())
    (finding,) = eval_modes_in_training(net, recorder.graph, {id(p) for p in net.parameters()})
    assert finding.message == "`body.2` is in evaluation mode while it trains (1 dropout in it)"
    assert "`self.body[2].train()` in `on_train_epoch_start`" in finding.remedy


def test_a_feature_extractor_without_grad() -> None:
    net = Net()
    net.body.eval()

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            features = net.body(x)
        return net.head(features)

    assert judged(net, forward=forward) == []


def test_a_body_that_no_optimizer_holds() -> None:
    net = Net()
    net.body.eval()
    assert judged(net, held=net.head.parameters()) == []


def test_a_mode_of_the_moment() -> None:
    net = Net()

    def forward(x: Tensor) -> Tensor:
        net.eval()
        out = net(x)
        net.train()
        return out

    assert judged(net, forward=forward) == []


def test_what_does_not_reach_the_loss() -> None:
    net = Net()
    net.body.eval()

    def forward(x: Tensor) -> Tensor:
        net.body(x)
        return net.head(x)

    assert judged(net, forward=forward) == []


def test_a_dropout_of_nothing() -> None:
    net = Net()
    net.body[2].p = 0.0
    net.body[2].eval()
    assert judged(net) == []


def evaluated(net: nn.Module) -> Finding | None:
    return train_modes_in_evaluation(net, modes_of_interest(net, None))


def test_evaluation() -> None:
    net = Net()
    found = evaluated(net)
    assert found is not None
    assert (str(found.severity), found.where, found.evidence["modules"]) == ("error", "body.1", 3)
    assert evaluated(net.eval()) is None


@pytest.mark.parametrize(
    ("path", "severity"), [("body.1", "error"), ("body.2", "info"), ("head", "error"), ("body.0", None)]
)
def test_evaluation_of_parts(path: str, severity: str | None) -> None:
    net = Net().eval()
    net.get_submodule(path).train()
    found = evaluated(net)
    assert (found and str(found.severity)) == severity


def test_evaluation_of_what_the_trace_has_seen() -> None:
    net = Net(functional=True)
    assert modes_of_interest(net, None) == {}
    with Recorder(net, X) as recorder:
        recorder.mark_loss(net(X).square().mean())
    parts = modes_of_interest(net, recorder.graph)
    assert parts == {"body.1": "batch norm", "body.2": "dropout", "head.0": "dropout"}
    assert train_modes_in_evaluation(net.eval(), parts) is None
    net.head.train()
    found = train_modes_in_evaluation(net, parts)
    assert found is not None
    assert (str(found.severity), found.where) == ("error", "head.0")


def test_nothing_whose_mode_matters() -> None:
    net = nn.Sequential(nn.Linear(8, 2), nn.Dropout(0.0), nn.BatchNorm1d(2, track_running_stats=False))
    assert evaluated(net) is None
