"""The snapshot alone: what is shared stays shared, what was not there is not there again."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.aggregation import CatMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

from lightning_tuning.guards._snapshot import BatchSnapshot, BufferSnapshot, MetricSnapshot


class Buffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("a", torch.arange(4.0))
        self.register_buffer("b", torch.arange(3))
        self.register_buffer("none", None)
        self.norm = nn.BatchNorm1d(2)
        self.twin = nn.Module()
        self.twin.register_buffer("a", self.a)


def test_written_in_place() -> None:
    module = Buffers()
    before = {name: (buffer, buffer.clone()) for name, buffer in module.named_buffers(remove_duplicate=False)}
    snapshot = BufferSnapshot(module)
    for _ in range(2):
        snapshot.take()
        module.a.fill_(float("nan"))
        module.b.add_(1)
        module.norm(torch.full((3, 2), float("inf")))
        snapshot.restore()
        for name, buffer in module.named_buffers(remove_duplicate=False):
            assert buffer is before[name][0]
            assert torch.equal(buffer, before[name][1])


def test_replaced_added_and_removed() -> None:
    module = Buffers()
    a, b = module.a, module.b
    snapshot = BufferSnapshot(module)
    snapshot.take()
    module.a = module.a * float("nan")
    module.none = torch.ones(2)
    module.register_buffer("new", torch.ones(2))
    module.twin.register_buffer("new", torch.ones(2))
    del module.b
    snapshot.restore()
    assert module.a is a
    assert module.b is b
    assert module.twin.a is a
    assert module.none is None
    assert "new" not in dict(module.named_buffers())
    assert list(module.twin._buffers) == ["a"]


def test_by_name_is_what_was_there() -> None:
    module = Buffers()
    snapshot = BufferSnapshot(module)
    snapshot.take()
    module.a.zero_()
    held = snapshot.by_name()
    assert held.keys() == dict(module.named_buffers()).keys()
    assert torch.equal(held["a"], torch.arange(4.0))


def test_module_without_buffers() -> None:
    snapshot = BatchSnapshot(nn.Linear(2, 2), metrics=True)
    snapshot.take({})
    snapshot.restore({})
    assert snapshot.buffers() == {}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning")
def test_scripted_modules() -> None:
    module = nn.ModuleList([torch.jit.script(nn.BatchNorm1d(2))])
    snapshot = BufferSnapshot(module)
    snapshot.take()
    module[0](torch.full((3, 2), float("nan")))
    snapshot.restore()
    assert torch.equal(module[0].running_mean, torch.zeros(2))


class Metrics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.several = MetricCollection(
            {"f1": MulticlassF1Score(3), "accuracy": MulticlassAccuracy(3), "matrix": MulticlassConfusionMatrix(3)}
        )
        self.all = CatMetric()
        self.mean = MeanMetric()

    def update(self, seed: int) -> None:
        logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
        self.several(logits, torch.arange(8) % 3)
        self.all(logits[0])
        self.mean.update(logits.mean())

    def compute(self) -> dict[str, torch.Tensor]:
        return {**self.several.compute(), "all": self.all.compute(), "mean": self.mean.compute()}


@pytest.mark.parametrize("bad", [{0}, {1}, {2}, {0, 1}, {1, 3}])
def test_metrics_forget_the_batch(bad: set[int]) -> None:
    module, absent = Metrics(), Metrics()
    snapshot = MetricSnapshot(module)
    for seed in range(5):
        snapshot.take({})
        module.update(seed)
        if seed in bad:
            snapshot.restore({})
        else:
            absent.update(seed)
    expected = absent.compute()
    for name, value in module.compute().items():
        assert torch.equal(value, expected[name]), name
    assert module.several.compute_groups == absent.several.compute_groups
    assert module.mean.update_count == absent.mean.update_count


def test_groups_formed_by_a_bad_batch_are_undone() -> None:
    module = Metrics()
    snapshot = MetricSnapshot(module)
    snapshot.take({})
    module.several.update(torch.full((8, 3), 0.5), torch.arange(8) % 3)
    assert module.several._groups_checked
    assert len(module.several.compute_groups) < 3
    snapshot.restore({})
    assert not module.several._groups_checked
    assert len(module.several.compute_groups) == 3
