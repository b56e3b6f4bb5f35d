"""Probes see the operations that they name: after each, and before it where they ask to."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tuning.trace import EarlyProbe, Probe, Recorder


class Late:
    def __init__(self, *names):
        self.names = names
        self.seen = []

    def look(self, op, inputs, outputs):
        assert not torch.is_grad_enabled()
        self.seen.append((op.name, op.index, [tuple(t.shape) for t in inputs], [tuple(t.shape) for t in outputs]))


class Early(Late):
    def __init__(self, *names):
        super().__init__(*names)
        self.foreseen = []

    def foresee(self, op, inputs):
        assert not torch.is_grad_enabled()
        self.foreseen.append((op.name, op.index, op.inputs, op.outputs, [tuple(t.shape) for t in inputs]))


def run(target, *probes):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(2, 4)
    recorder = Recorder(net, (x, target), probes)
    with recorder:
        recorder.mark_loss(F.cross_entropy(net(x), target))
    return recorder.graph


def test_protocols():
    assert isinstance(Early(), EarlyProbe)
    assert not isinstance(Late(), EarlyProbe)
    probes: list[Probe] = [Late(), Early()]
    assert len(probes) == 2


def test_before_and_after():
    late, early = Late("linear", "relu"), Early("cross_entropy")
    graph = run(torch.tensor([0, 2]), late, early)
    assert [name for name, *_ in late.seen] == ["linear", "relu", "linear"]
    assert late.seen[0][2:] == ([(2, 4), (8, 4), (8,)], [(2, 8)])
    ((name, index, inputs, outputs, shapes),) = early.foreseen
    (loss,) = graph.find("cross_entropy")
    assert (name, index, inputs, outputs) == ("cross_entropy", loss.index, loss.inputs, ())
    assert shapes == [(2, 3), (2,)]
    assert [entry[1] for entry in early.seen] == [loss.index]


def test_what_fails_was_foreseen():
    early = Early("cross_entropy")
    with pytest.raises(IndexError):
        run(torch.tensor([0, 3]), early)
    assert len(early.foreseen) == 1
    assert early.seen == []


def test_a_probe_that_fails_does_not_fail_the_step():
    class Broken(Early):
        def foresee(self, op, inputs):
            raise RuntimeError("a mistake")

    graph = run(torch.tensor([0, 2]), Broken("relu"))
    assert "a mistake" in graph.blind[0]
    assert len(graph.losses) == 1
