"""LT408: bands of learning rates, and everything to which they do not apply."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tuning.rules._optimizers import parameter_groups
from lightning_tuning.rules.learning_rate_band import learning_rate_bands


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2, 2))]


def bands(*optimizers: Any) -> list[tuple[str, float]]:
    findings = learning_rate_bands(parameter_groups(optimizers, {}))
    return [(finding.where, finding.evidence["lr"]) for finding in findings]


@pytest.mark.parametrize(
    ("optimizer", "lr", "is_odd"),
    [
        (torch.optim.Adam, 0.02, True),
        (torch.optim.AdamW, 0.01, False),
        (torch.optim.AdamW, 3e-4, False),
        (torch.optim.RAdam, 1e-6, False),
        (torch.optim.Adam, 9e-7, True),
        (torch.optim.Adam, 0.0, False),
        (torch.optim.SGD, 1.0, False),
        (torch.optim.SGD, 1.1, True),
        (torch.optim.SGD, 1e-8, False),
        (torch.optim.Adadelta, 1.0, False),
        (torch.optim.Adadelta, 0.1, False),
        (torch.optim.Adadelta, 0.01, True),
        (torch.optim.LBFGS, 1.0, False),
        (torch.optim.Rprop, 0.1, False),
        (torch.optim.RMSprop, 0.1, False),
        (torch.optim.Muon, 0.02, False),
        (torch.optim.SGD, math.inf, True),
        (torch.optim.Adam, math.nan, False),
    ],
)
def test_bands(optimizer: Any, lr: float, is_odd: bool) -> None:
    made = optimizer(weights())
    made.param_groups[0]["lr"] = lr
    assert bands(made) == ([(f"{optimizer.__name__} group 0", lr)] if is_odd else [])


class ScheduleFree(torch.optim.Optimizer):
    def __init__(self) -> None:
        super().__init__(weights(), {"lr": 1.0, "betas": (0.9, 0.99), "eps": 1e-8, "r": 0.0, "weight_lr_power": 2.0})


def test_quiet_for_rates_that_mean_something_else() -> None:
    assert bands(ScheduleFree()) == []


def test_a_base_rate_that_a_schedule_multiplies() -> None:
    optimizer = torch.optim.Adam(weights(), lr=1.0)  # "Noam": d ** -0.5 * min(step ** -0.5, step * warmup ** -1.5)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 512**-0.5 * min((step + 1) ** -0.5, (step + 1) * 1e-6))
    assert bands(optimizer) == []


def test_a_warm_up_from_nothing() -> None:
    optimizer = torch.optim.AdamW(weights(), lr=1e-4)
    torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-8)
    assert bands(optimizer) == []


def test_one_cycle_begins_low() -> None:
    optimizer = torch.optim.Adam(weights(), lr=1e-9)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=10, div_factor=1e6)
    assert bands(optimizer) == []


def test_layers_that_decay_away_are_one_optimizer() -> None:
    groups = [{"params": weights(), "lr": 1e-3 * 0.3**i} for i in range(12)]
    assert groups[-1]["lr"] < 1e-6 * 10
    assert bands(torch.optim.AdamW(groups)) == []


def test_the_highest_group_speaks() -> None:
    optimizer = torch.optim.AdamW([{"params": weights(), "lr": lr} for lr in (1e-3, 0.5, 0.1)])
    assert bands(optimizer) == [("AdamW group 1", 0.5)]


def test_each_of_several_optimizers() -> None:
    assert bands(torch.optim.Adam(weights(), lr=0.1), torch.optim.SGD(weights(), lr=2.0)) == [
        ("Adam 0 group 0", 0.1),
        ("SGD 1 group 0", 2.0),
    ]
