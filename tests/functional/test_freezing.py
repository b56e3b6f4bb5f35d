from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_tuning.functional import frozen


def net() -> nn.ModuleDict:
    backbone = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    return nn.ModuleDict({"backbone": backbone, "head": nn.Linear(2, 1)})


def test_it_freezes_at_once_and_says_what() -> None:
    model = net()
    held = frozen(model, "backbone")
    assert str(held) == "frozen: backbone (1 batch norm, 1 dropout, 4 parameters)"
    assert held.names == ["backbone"]
    assert held.parameters == [f"backbone.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")]
    assert not any(part.training for part in model["backbone"].modules())
    assert model["head"].training
    before = model["backbone"][1].running_mean.clone()
    model["backbone"](torch.randn(4, 2))
    assert torch.equal(model["backbone"][1].running_mean, before)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]


def test_the_way_back_leaves_alone_what_was_off_before() -> None:
    model = net()
    model["backbone"][2].eval()
    model["backbone"][0].bias.requires_grad_(False)
    with frozen(model):
        assert not any(p.requires_grad for p in model.parameters())
        assert not model.training
    assert [part.training for part in model["backbone"]] == [True, True, False]
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["backbone.0.bias"]


def test_modes_alone_and_who_has_moved() -> None:
    model = net()
    held = frozen(model, ["backbone.1", "*.2"], parameters=False)
    assert all(p.requires_grad for p in model.parameters())
    model.train()
    assert held.hold() == ["backbone.1", "backbone.2"]
    assert held.hold() == []
    held.unfreeze()
    held.unfreeze()
    assert model["backbone"][1].training


def test_an_error_in_the_block_unfreezes_too() -> None:
    model = net()
    with pytest.raises(RuntimeError, match="mine"), frozen(model):
        raise RuntimeError("mine")
    assert model.training


def test_a_glob_that_means_nothing() -> None:
    with pytest.raises(ValueError, match=r"`include` must mean a module, got 'encoder'; there are: "):
        frozen(net(), "encoder")
