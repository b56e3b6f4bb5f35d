"""Which parameters decay."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tuning.functional import split_decay_groups


def names(module: nn.Module, group: dict[str, Any]) -> list[str]:
    return [next(name for name, p in module.named_parameters() if p is mine) for mine in group["params"]]


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.positions = nn.Parameter(torch.zeros(1, 4, 8))
        self.embedding = nn.Embedding(10, 8)
        self.conv = nn.Conv1d(8, 8, 3)
        self.batch_norm = nn.BatchNorm1d(8)
        self.layer_norm = nn.LayerNorm((4, 8))
        self.lstm = nn.LSTM(8, 8)
        self.head = nn.Linear(8, 10)


def test_weights_decay_and_nothing_else() -> None:
    module = Mixed()
    weights, rest = split_decay_groups(module, 0.1)
    assert names(module, weights) == [
        "positions", "embedding.weight", "conv.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "head.weight",
    ]  # fmt: skip
    assert names(module, rest) == [
        "temperature", "conv.bias", "batch_norm.weight", "batch_norm.bias", "layer_norm.weight", "layer_norm.bias",
        "lstm.bias_ih_l0", "lstm.bias_hh_l0", "head.bias",
    ]  # fmt: skip
    assert (weights["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)


def test_every_parameter_once() -> None:
    module = Mixed()
    module.head.weight = module.embedding.weight
    groups = split_decay_groups(module, 0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))
    torch.optim.AdamW(groups, lr=1e-3)


def test_frozen_parameters_are_left_out() -> None:
    module = Mixed().requires_grad_(False)
    module.head.requires_grad_(True)
    assert [names(module, group) for group in split_decay_groups(module, 0.1)] == [["head.weight"], ["head.bias"]]


@pytest.mark.parametrize(
    ("module", "decays"), [(nn.Linear(2, 2, bias=False), [0.1]), (nn.LayerNorm(2), [0.0]), (nn.ReLU(), [])]
)
def test_no_empty_group(module: nn.Module, decays: list[float]) -> None:
    assert [group["weight_decay"] for group in split_decay_groups(module, 0.1)] == decays


def test_no_decay_at_all() -> None:
    assert [group["weight_decay"] for group in split_decay_groups(nn.Linear(2, 2), 0.0)] == [0.0, 0.0]


@pytest.mark.parametrize("weight_decay", [-0.1, math.nan, math.inf])
def test_refuses_a_decay(weight_decay: float) -> None:
    with pytest.raises(ValueError, match=r"`weight_decay` must be a finite number >= 0, got"):
        split_decay_groups(nn.Linear(2, 2), weight_decay)


def test_refuses_a_lazy_layer() -> None:
    with pytest.raises(ValueError, match=r"no lazy parameters, got `0\.weight`"):
        split_decay_groups(nn.Sequential(nn.LazyLinear(2)), 0.1)
