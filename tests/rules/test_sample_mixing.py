"""LT111's pure parts: who influences an output, and when samples rightly meet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.rules._loss_terms import loss_terms
from lightning_tuning.rules.sample_mixing import Influence, influences, mixes_on_purpose, sample_mixing
from lightning_tuning.trace import Recorder

BATCH = 6


@pytest.mark.parametrize(
    ("by_sample", "samples"),
    [
        ([], []),
        ([0.0, 0.0], []),
        ([0.0, 2.0], [1]),
        ([1e-7, 2.0], [1]),
        ([1e-2, 2.0], [0, 1]),
    ],
)
def test_influence(by_sample: list[float], samples: list[int]) -> None:
    influence = Influence(by_sample)
    assert influence.samples == samples
    finding = sample_mixing(influence, batch_size=max(1, len(by_sample)))
    assert (finding is not None) is (len(samples) > 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_tells_nothing(bad: float) -> None:
    assert influences([(torch.tensor([[bad], [1.0]]), 0)]) is None
    assert influences([(torch.zeros(2, 1), 0)]) is None
    assert influences([]) is None


def test_the_sample_axis_need_not_be_the_first() -> None:
    found = influences([(torch.tensor([[0.0, 1.0, 0.0], [0.0, 2.0, 0.0]]), 1)])
    assert found is not None
    assert found.samples == [1]


net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5))


def plain(x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y)


def attention_over_the_batch(x: Tensor, y: Tensor) -> Tensor:
    h = net(x)
    weights = torch.softmax(h @ h.T, -1)
    return F.cross_entropy(net[2](weights @ h), y)


def simclr(x: Tensor, y: Tensor) -> Tensor:
    z = F.normalize(torch.cat([net(x), net(x + 0.1)]))
    similarity = (z @ z.T).masked_fill(torch.eye(2 * BATCH, dtype=torch.bool), -1e9)
    return F.cross_entropy(similarity, torch.arange(2 * BATCH).roll(BATCH))


def in_batch_negatives(x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x) @ net(2 * x).T, y)


def prototypes(x: Tensor, y: Tensor) -> Tensor:
    h = net(x)
    centres = torch.stack([h[:2].mean(0), h[2:4].mean(0), h[4:].mean(0)])
    return F.cross_entropy(-torch.cdist(h, centres), y % 3)


def mixup(x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(0.7 * x + 0.3 * x[torch.randperm(BATCH)]), y)


def flipped_mixup(x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(0.7 * x + 0.3 * x.flip(0)), y)


def own_targets(x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), torch.zeros(BATCH, dtype=torch.long))


@pytest.mark.parametrize(
    ("step", "is_purpose"),
    [
        (plain, False),
        (attention_over_the_batch, False),
        (simclr, True),
        (in_batch_negatives, True),
        (prototypes, True),
        (mixup, True),
        (flipped_mixup, True),
        (own_targets, True),
    ],
)
def test_samples_that_rightly_meet(step: Callable[[Tensor, Tensor], Tensor], is_purpose: bool) -> None:
    batch = (torch.randn(BATCH, 4), torch.arange(BATCH) % 5)
    with Recorder(net, batch) as recorder:
        loss = step(*batch)
        recorder.mark_loss(loss)
    graph = recorder.graph
    (term,) = graph.answer(loss_terms)
    assert term.target is not None
    reason = mixes_on_purpose(graph, graph.values[term.prediction], graph.values[term.target], BATCH)
    assert (reason is not None) is is_purpose, reason


def test_a_graph_of_samples_is_meant_so() -> None:
    batch = {"x": torch.randn(BATCH, 4), "y": torch.arange(BATCH) % 5, "edges": torch.randint(BATCH, (2, 9))}
    with Recorder(net, batch) as recorder:
        h = torch.zeros(BATCH, 4).index_add(0, batch["edges"][1], batch["x"][batch["edges"][0]])
        recorder.mark_loss(F.cross_entropy(net(h), batch["y"]))
    graph = recorder.graph
    (term,) = graph.answer(loss_terms)
    assert term.target is not None
    assert mixes_on_purpose(graph, graph.values[term.prediction], graph.values[term.target], BATCH) is not None
