"""LT405, LT406, LT407, LT413: what a run that does not learn may hear of its optimizer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tuning.functional import split_decay_groups
from lightning_tuning.rules._optimizers import parameter_groups, parameter_names
from lightning_tuning.rules.adam_l2 import adam_l2
from lightning_tuning.rules.decay_on_norm_and_bias import decay_on_norms_and_biases
from lightning_tuning.rules.large_batch_lr import large_batch_lr
from lightning_tuning.rules.no_momentum import no_momentum


class ImageNorm(nn.Module):
    """A norm over channels and pixels: its scale has three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, 3, 3))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False))


def groups_of(optimizer: Any, module: nn.Module | None = None) -> Any:
    return parameter_groups([optimizer], {} if module is None else parameter_names(module))


@pytest.mark.parametrize(
    ("optimizer", "is_coupled"),
    [
        (torch.optim.Adam(net().parameters(), weight_decay=1e-4), True),
        (torch.optim.Adam(net().parameters()), False),
        (torch.optim.Adam(net().parameters(), weight_decay=1e-4, decoupled_weight_decay=True), False),
        (torch.optim.AdamW(net().parameters(), weight_decay=0.1), False),
        (torch.optim.NAdam(net().parameters(), weight_decay=1e-4), True),
        (torch.optim.Adamax(net().parameters(), weight_decay=1e-4), True),
        (torch.optim.SGD(net().parameters(), lr=0.1, weight_decay=1e-4), False),
        (torch.optim.LBFGS(net().parameters()), False),
    ],
)
def test_adam_l2(optimizer: Any, is_coupled: bool) -> None:
    assert [finding.code for finding in adam_l2(groups_of(optimizer))] == (["LT405"] if is_coupled else [])


def test_the_figures_of_adam_l2() -> None:
    ends = {}
    for make in (torch.optim.Adam, torch.optim.AdamW):
        for decay in (0.0, 0.1):
            weight = nn.Parameter(torch.ones((), dtype=torch.float64))
            weight.grad = torch.tensor(10.0, dtype=torch.float64)
            make([weight], lr=0.1, weight_decay=decay).step()
            ends[make.__name__, decay] = weight.item()
    assert ends["Adam", 0.1] == pytest.approx(ends["Adam", 0.0], abs=1e-9)
    assert ends["Adam", 0.0] == pytest.approx(0.9)
    assert ends["AdamW", 0.1] == pytest.approx(0.89)


def test_adam_l2_speaks_once_for_all_groups() -> None:
    groups = [
        {"params": [p], "weight_decay": decay} for p, decay in zip(net().parameters(), (0, 0.1, 0.2), strict=False)
    ]
    (found,) = adam_l2(groups_of(torch.optim.Adam(groups)))
    assert (found.where, found.evidence["groups"]) == ("Adam group 1", 2)


@pytest.mark.parametrize(
    ("settings", "steps", "part"),
    [
        ({"lr": 1e-3, "weight_decay": 0.01}, 10_000, None),
        ({"lr": 1e-3, "weight_decay": 0.01}, 20_000, 1 - math.exp(-0.2)),
        ({"lr": 1e-3, "weight_decay": 0.01}, math.inf, 1.0),
        ({"lr": 1e-3, "weight_decay": 0.0}, math.inf, None),
        ({"lr": 0.0, "weight_decay": 0.01}, math.inf, None),
        ({"lr": 1e-3, "weight_decay": 0.01}, 0, None),
        ({"lr": 1e-3, "weight_decay": 0.01}, math.nan, None),
    ],
)
def test_decay_on_norms(settings: dict[str, float], steps: float, part: float | None) -> None:
    module = net()
    found = decay_on_norms_and_biases(groups_of(torch.optim.AdamW(module.parameters(), **settings), module), steps)
    assert [finding.evidence["part"] for finding in found] == ([] if part is None else [pytest.approx(part)])
    assert all(finding.evidence["parameters"] == 3 for finding in found)


def test_decay_is_quiet_when_split() -> None:
    module = net()
    optimizer = torch.optim.AdamW(split_decay_groups(module, 0.1))
    assert decay_on_norms_and_biases(groups_of(optimizer, module), math.inf) == []


def test_decay_sees_a_norm_of_any_shape() -> None:
    module = ImageNorm()
    groups = groups_of(torch.optim.AdamW(module.parameters()), module)
    assert decay_on_norms_and_biases(groups, math.inf) == []
    assert len(decay_on_norms_and_biases(groups, math.inf, of_norms={"scale"})) == 1


def test_decay_by_somebody_elses_optimizer() -> None:
    module = net()
    assert decay_on_norms_and_biases(groups_of(torch.optim.RMSprop(module.parameters(), weight_decay=1.0)), 1e6) == []


def test_decay_on_frozen_biases() -> None:
    module = nn.Linear(4, 4)
    module.bias.requires_grad_(False)
    assert decay_on_norms_and_biases(groups_of(torch.optim.AdamW(module.parameters())), math.inf) == []


def test_decay_before_lazy_layers_are_built() -> None:
    module = nn.LazyLinear(4)
    assert decay_on_norms_and_biases(groups_of(torch.optim.AdamW(module.parameters())), math.inf) == []


@pytest.mark.parametrize(
    ("optimizer", "is_plain"),
    [
        (torch.optim.SGD(net().parameters(), lr=0.1), True),
        (torch.optim.SGD(net().parameters(), lr=0.1, momentum=0.5), False),
        (torch.optim.SGD(net().parameters(), lr=0.0), False),
        (
            torch.optim.SGD(
                [{"params": [p], "momentum": m} for p, m in zip(net().parameters(), (0, 0.9), strict=False)]
            ),
            False,
        ),
        (torch.optim.RMSprop(net().parameters()), False),
        (torch.optim.Adam(net().parameters()), False),
    ],
)
def test_no_momentum(optimizer: Any, is_plain: bool) -> None:
    assert [finding.where for finding in no_momentum(groups_of(optimizer))] == (["SGD group 0"] if is_plain else [])


@pytest.mark.parametrize(
    ("lr", "momentum", "dampening", "batch_size", "limit"),
    [
        (0.1, 0.9, 0, 16, None),
        (0.1, 0.9, 0, 256, None),
        (0.4, 0.9, 0, 256, None),
        (0.5, 0.9, 0, 256, 0.4),
        (0.5, 0.9, 0, 16, 0.4),
        (0.5, 0.9, 0, 512, None),
        (6.4, 0.9, 0, 4096, None),
        (8.0, 0.9, 0, 4096, 6.4),
        (1.0, 0.0, 0, 256, None),
        (5.0, 0.0, 0, 256, 4.0),
        (1.0, 0.9, 0.9, 256, None),
        (0.1, 0.99, 0, 256, 0.04),
        (1.0, 0.9, 0, 0, None),
        (math.nan, 0.9, 0, 256, None),
        (math.inf, 0.9, 0, 256, None),
        (1.0, 1.0, 0, 256, None),
    ],
)
def test_large_batch_lr(lr: float, momentum: float, dampening: float, batch_size: int, limit: float | None) -> None:
    optimizer = torch.optim.SGD(net().parameters(), lr=0.1, momentum=momentum, dampening=dampening)
    optimizer.param_groups[0]["lr"] = lr
    found = large_batch_lr(groups_of(optimizer), batch_size)
    assert [f.evidence["threshold"] for f in found] == ([] if limit is None else [pytest.approx(limit)])


def test_a_warm_up_is_well() -> None:
    optimizer = torch.optim.SGD(net().parameters(), lr=3.0, momentum=0.9)
    torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5)
    assert large_batch_lr(groups_of(optimizer), 256) == []


def test_adam_has_no_linear_scaling() -> None:
    assert large_batch_lr(groups_of(torch.optim.Adam(net().parameters(), lr=3.0)), 256) == []
