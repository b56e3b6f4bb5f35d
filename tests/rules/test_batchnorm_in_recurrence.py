from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_tuning.rules.batchnorm_in_recurrence import padded_batch_norms, recurrent_batch_norms
from lightning_tuning.trace import Graph
from tests.rules.graphs import Lambda, rows, step_of


def unrolled(steps: int, norm: nn.Module | None = None) -> nn.Module:
    def forward(parts: nn.ModuleDict, x: Tensor) -> Tensor:
        for _ in range(steps):
            x = x + parts["norm"](parts["step"](x)).tanh()
        return parts["head"](x)

    return Lambda(forward, step=nn.Linear(8, 8), norm=norm or nn.BatchNorm1d(8), head=nn.Linear(8, 2))


@pytest.mark.parametrize(("steps", "found"), [(1, False), (2, False), (3, False), (4, True), (7, True)])
def test_calls_in_a_chain(steps: int, *, found: bool) -> None:
    finding = recurrent_batch_norms(step_of(unrolled(steps), rows()))
    assert (finding is not None) == found
    if finding is not None:
        assert finding.where == "parts.norm"
        assert finding.evidence["calls"] == steps


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(5):
            x = F.batch_norm(self.step(x), self.mean, self.var, training=True).tanh()
        return self.head(x)


def test_functional() -> None:
    assert recurrent_batch_norms(step_of(Functional(), rows())) is not None


def pyramid(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    levels = [x[:, :, ::stride, ::stride] for stride in (1, 2, 3, 4, 5)]
    return parts["head"](sum(parts["norm"](parts["tower"](level)).relu().mean((2, 3)) for level in levels))


def test_a_head_shared_between_levels_is_quiet() -> None:
    net = Lambda(pyramid, tower=nn.Conv2d(1, 4, 1), norm=nn.BatchNorm2d(4), head=nn.Linear(4, 2))
    assert recurrent_batch_norms(step_of(net, rows(8, 1, 12, 12))) is None


def ghost(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    return parts["head"](torch.cat([parts["norm"](piece) for piece in x.split(4)]))


def test_ghost_batches_are_quiet() -> None:
    net = Lambda(ghost, norm=nn.BatchNorm1d(8), head=nn.Linear(8, 2))
    assert recurrent_batch_norms(step_of(net, rows(32))) is None


def inner_loop(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Meta-learning: each pass depends on the last by way of the weights alone."""
    weight = net.parts["head"].weight
    for _ in range(5):
        loss = F.cross_entropy(F.linear(net.parts["norm"](x @ weight.T @ weight), weight), y)
        (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
        weight = weight - 0.1 * gradient
    return F.cross_entropy(F.linear(net.parts["norm"](x), weight), y)


def test_an_inner_loop_is_quiet() -> None:
    net = Lambda(ghost, norm=nn.BatchNorm1d(8), head=nn.Linear(8, 2))
    assert recurrent_batch_norms(step_of(net, rows(), inner_loop)) is None


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.BatchNorm1d(8, track_running_stats=False)])
def test_norms_without_running_statistics_are_quiet(norm: nn.Module) -> None:
    assert recurrent_batch_norms(step_of(unrolled(6, norm), rows())) is None


def test_evaluation_mode_is_quiet() -> None:
    assert recurrent_batch_norms(step_of(unrolled(6), rows(), training=False)) is None


def unpacked(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    lengths = torch.arange(len(x)) % 3 + 3
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(parts["gru"](packed)[0], batch_first=True)
    last = states[torch.arange(len(x)), lengths - 1]
    everywhere = parts["norm"](states.transpose(1, 2)) if "everywhere" in parts else None
    return parts["head"](last if everywhere is None else everywhere.mean(2))


@pytest.mark.parametrize("everywhere", [True, False])
def test_padding(*, everywhere: bool) -> None:
    parts = {"gru": nn.GRU(4, 6, batch_first=True), "norm": nn.BatchNorm1d(6), "head": nn.Linear(6, 2)}
    net = Lambda(unpacked, **parts, **({"everywhere": nn.Identity()} if everywhere else {}))
    graph = step_of(net, rows(8, 5, 4))
    unpacking = {op.index for op in graph.find("pad_packed_sequence")}
    assert len(unpacking) == 1
    assert (padded_batch_norms(graph, unpacking) is not None) == everywhere
    assert padded_batch_norms(graph, ()) is None


def test_nothing_at_all() -> None:
    assert recurrent_batch_norms(Graph()) is None
    assert padded_batch_norms(Graph(), ()) is None
