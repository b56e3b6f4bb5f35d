from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_tuning.findings import Severity
from lightning_tuning.findings.gate import PERSISTENCE, OutcomeGate
from lightning_tuning.rules.batchnorm_small_batch import last_batch_of_one, small_batch
from lightning_tuning.trace import Graph
from tests.rules.graphs import Lambda, rows, step_of


def norms(**arguments: object) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4, **arguments), nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("samples", "severity"),
    [
        (2, Severity.WARNING),
        (4, Severity.WARNING),
        (8, Severity.WARNING),
        (9, Severity.INFO),
        (15, Severity.INFO),
        (16, None),
        (64, None),
    ],
)
def test_samples(samples: int, severity: Severity | None) -> None:
    found = small_batch(step_of(norms(), rows(samples)))
    assert (None if found is None else found.severity) == severity
    if found is not None:
        assert found.evidence["samples"] == samples
        assert found.where == "1"
        assert ("hardly" in found.message) == (samples <= 4)


def test_maps_do_not_make_up_for_samples() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    found = small_batch(step_of(net, rows(1, 1, 8, 8)), accumulation=4)
    assert found is not None
    assert "1 sample <" in found.message
    assert "accumulating 4 batches" in found.message


def test_it_warns_of_a_run_that_goes_nowhere_alone() -> None:
    found = small_batch(step_of(norms(), rows(4)))
    assert found is not None
    assert found.count == PERSISTENCE
    gate = OutcomeGate()
    gate.take(found)
    assert gate.severity(found) is Severity.INFO
    gate.move("flat")
    assert gate.severity(found) is Severity.WARNING


def ghost(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    return parts["head"](torch.cat([parts["norm"](piece) for piece in x.split(4)]))


@pytest.mark.parametrize(
    "net",
    [
        norms(track_running_stats=False),
        norms().eval().requires_grad_(False),
        nn.Sequential(nn.Linear(8, 4), nn.GroupNorm(2, 4), nn.Linear(4, 2)),
    ],
    ids=["no tracking", "evaluated", "group norm"],
)
def test_quiet(net: nn.Module) -> None:
    training = any(module.training for module in net.modules())
    assert small_batch(step_of(net, rows(4), training=training)) is None


def test_ghost_batches_are_quiet() -> None:
    net = Lambda(ghost, norm=nn.BatchNorm1d(8), head=nn.Linear(8, 2))
    assert small_batch(step_of(net, rows(32))) is None


def test_nothing_at_all() -> None:
    assert small_batch(Graph()) is None
    assert last_batch_of_one(Graph(), samples=17, batch_size=16, where="train_dataloader") is None


@pytest.mark.parametrize(
    ("samples", "fails"), [(17, True), (33, True), (1, True), (16, False), (18, False), (0, False)]
)
def test_last_batch(samples: int, *, fails: bool) -> None:
    found = last_batch_of_one(step_of(norms(), rows(16)), samples=samples, batch_size=16, where="train_dataloader")
    assert (found is not None) == fails
    if found is not None:
        assert found.severity is Severity.ERROR
        gate = OutcomeGate()
        gate.take(found)
        assert gate.severity(found) is Severity.ERROR, "what is provable waits for no outcome"


def test_last_batch_with_more_values_than_one() -> None:
    maps = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    assert last_batch_of_one(step_of(maps, rows(16, 1, 8, 8)), samples=17, batch_size=16, where="") is None
    pixel = nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    assert last_batch_of_one(step_of(pixel, rows(16, 1, 8, 8)), samples=17, batch_size=16, where="") is not None


def test_last_batch_of_a_net_that_doubles_its_samples() -> None:
    def two_views(parts: nn.ModuleDict, x: Tensor) -> Tensor:
        return parts["head"](parts["norm"](torch.cat([x, -x])))[: len(x)]

    net = Lambda(two_views, norm=nn.BatchNorm1d(8), head=nn.Linear(8, 2))
    assert last_batch_of_one(step_of(net, rows(16)), samples=17, batch_size=16, where="") is None
