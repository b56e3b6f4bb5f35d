from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.rules.batchnorm_momentum import high_momenta
from lightning_tuning.trace import Graph
from tests.rules.graphs import classes, rows, step_of


def norm(momentum: float | None, **arguments: object) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4, momentum=momentum, **arguments), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("momentum", "found"),
    [(0.0, False), (0.01, False), (0.1, False), (0.5, False), (0.9, True), (0.99, True), (1.0, True), (None, False)],
)
def test_momenta(momentum: float | None, *, found: bool) -> None:
    finding = high_momenta(step_of(norm(momentum), rows()))
    assert (finding is not None) == found
    if finding is not None:
        assert finding.where == "1"
        assert finding.evidence["momentum"] == momentum


@pytest.mark.parametrize(("samples", "severity"), [(8, "warning"), (31, "warning"), (32, "info"), (256, "info")])
def test_a_large_batch_says_enough_alone(samples: int, severity: str) -> None:
    finding = high_momenta(step_of(norm(0.997), rows(samples, 8)))
    assert finding is not None
    assert str(finding.severity) == severity
    assert finding.evidence["samples"] == samples


def test_functional_with_buffers() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 2)
            self.register_buffer("mean", torch.zeros(8))
            self.register_buffer("var", torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.batch_norm(x, self.mean, self.var, training=self.training, momentum=0.99))

    assert high_momenta(step_of(Functional(), rows())) is not None
    assert high_momenta(step_of(Functional(), rows(), training=False)) is None


def thrown_away(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """As meta-learning does it: statistics of this batch, kept by nobody."""
    return classes(net, F.batch_norm(x, torch.zeros(8), torch.ones(8), training=True, momentum=1.0), y)


def test_quiet() -> None:
    assert high_momenta(step_of(nn.Linear(8, 2), rows(), thrown_away)) is None
    assert high_momenta(step_of(norm(0.9, track_running_stats=False), rows())) is None
    assert high_momenta(step_of(norm(0.9), rows(), training=False)) is None
    assert high_momenta(Graph()) is None
