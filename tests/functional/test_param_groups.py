"""Every trainable parameter in one group, at the rate and the decay that its place asks for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_tuning.functional import param_groups, split_decay_groups
from tests.helpers import MODEL_KINDS, BNConvNet, TransformerNet


class LlamaRMSNorm(nn.Module):
    """Of another library, known by its name."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, size))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = LlamaRMSNorm(4)
        self.mlp = nn.Linear(4, 4)


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 9, 4))
        self.patches = nn.Conv2d(1, 4, 2)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)


class Finetuned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Vit()
        self.head = nn.Linear(4, 2)


class Resnet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.layer1 = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1))
        self.between = nn.Conv2d(2, 2, 1)
        self.layer2 = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1))
        self.fc = nn.Linear(2, 2)


def rates(module: nn.Module, groups: list[dict[str, Any]]) -> dict[str, float]:
    by_id = {id(p): group["lr"] for group in groups for p in group["params"]}
    return {name: by_id[id(p)] for name, p in module.named_parameters() if id(p) in by_id}


def decayed(module: nn.Module, groups: list[dict[str, Any]]) -> set[str]:
    by_id = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    return {name for name, p in module.named_parameters() if by_id[id(p)]}


def test_without_anything_it_is_one_group() -> None:
    (group,) = param_groups(Vit(), 0.1)
    assert (group["name"], group["lr"], group["weight_decay"]) == ("all", 0.1, 0.0)


def test_decay_is_that_of_split_decay_groups() -> None:
    module = Vit()
    mine, theirs = param_groups(module, 0.1, weight_decay=0.3), split_decay_groups(module, 0.3)
    assert [[id(p) for p in group["params"]] for group in mine] == [[id(p) for p in g["params"]] for g in theirs]
    assert [group["weight_decay"] for group in mine] == [0.3, 0.0]
    assert {"positions", "patches.weight", "head.weight", *(f"blocks.{i}.mlp.weight" for i in range(3))} == decayed(
        module, mine
    )


def test_what_decays_can_be_chosen() -> None:
    module = Vit()
    assert decayed(module, param_groups(module, 1.0, weight_decay=0.1, no_decay=[])) == {
        name for name, _ in module.named_parameters()
    }
    without = decayed(module, param_groups(module, 1.0, weight_decay=0.1, no_decay=["norm", "positions", "blocks.1"]))
    assert {"patches.bias", "blocks.0.mlp.bias"} <= without
    assert not {"positions", "blocks.1.mlp.weight", "norm.weight", "blocks.0.norm.weight"} & without


def test_the_backbone_learns_more_slowly() -> None:
    module = Finetuned()
    groups = param_groups(module, 1.0, backbone="encoder", weight_decay=0.1)
    assert [group["name"] for group in groups] == ["backbone", "backbone, no decay", "head", "head, no decay"]
    assert rates(module, groups) == {
        name: (0.1 if name.startswith("encoder.") else 1.0) for name, _ in module.named_parameters()
    }
    some = rates(module, param_groups(module, 1.0, backbone=["encoder.b*", "*.patches"], backbone_lr_ratio=0.5))
    assert {name for name, rate in some.items() if rate == 0.5} == {
        name for name in some if ".patches." in name or ".blocks." in name
    }


def test_rates_by_depth_of_a_transformer() -> None:
    module = Vit()
    found = rates(module, param_groups(module, 1.0, layer_decay=0.5))
    expected = {"positions": 0, "patches": 0, "blocks.0": 1, "blocks.1": 2, "blocks.2": 3, "norm": 4, "head": 4}
    for name, rate in found.items():
        depth = next(depth for place, depth in expected.items() if name.startswith(place))
        assert rate == pytest.approx(0.5 ** (4 - depth)), name


def test_rates_by_depth_of_stacks() -> None:
    module = Resnet()
    found = rates(module, param_groups(module, 1.0, layer_decay=0.5))
    depths = {name.removesuffix(".weight"): 5 + round(math.log2(rate)) for name, rate in found.items()}
    expected = {"stem": 0, "layer1.0": 1, "layer1.1": 2, "between": 2, "layer2.0": 3, "layer2.1": 4, "fc": 5}
    assert {name: depth for name, depth in depths.items() if "bias" not in name} == expected


def test_rates_by_depth_without_numbers_and_with_nothing_behind_the_last_block() -> None:
    plain = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "c": nn.Linear(2, 2)})
    assert [g["lr"] for g in param_groups(plain, 1.0, layer_decay=0.5)] == [0.25, 0.5, 1.0]
    stack = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    assert [g["lr"] for g in param_groups(stack, 1.0, layer_decay=0.5)] == [0.5, 1.0]


def test_an_embedding_is_the_deepest_wherever_it_stands_and_if_it_is_tied() -> None:
    net = nn.ModuleDict(
        {"head": nn.Linear(4, 9, bias=False), "blocks": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))}
    )
    net["tokens"] = nn.Embedding(9, 4)
    net["head"].weight = net["tokens"].weight
    groups = param_groups(net, 1.0, layer_decay=0.1)
    assert [group["name"] for group in groups] == ["depth 0", "depth 1", "depth 2"]
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))


def test_depth_inside_a_backbone() -> None:
    module = Finetuned()
    found = rates(module, param_groups(module, 1.0, backbone="encoder", layer_decay=0.5))
    assert found["head.weight"] == 1.0
    assert found["encoder.head.weight"] == pytest.approx(0.1)
    assert found["encoder.positions"] == pytest.approx(0.1 * 0.5**4)


def test_frozen_parameters_are_left_out_and_may_be_named() -> None:
    module = Finetuned()
    module.encoder.requires_grad_(False)
    (group,) = param_groups(module, 1.0, backbone="encoder")
    assert group["name"] == "head"


def test_a_compiled_module_has_the_names_of_its_own() -> None:
    module = nn.ModuleDict({"encoder": torch.compile(nn.Linear(2, 2), backend="eager"), "head": nn.Linear(2, 2)})
    assert [g["name"] for g in param_groups(module, 1.0, backbone="encoder.weight")] == ["backbone", "head"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"backbone": "encodr"}, r"`backbone` must match .*, got 'encodr'; near it: encoder"),
        ({"backbone": "encoder.blocks.7"}, r"got 'encoder.blocks.7'; near it: encoder\.blocks"),
        ({"backbone": "qqq"}, r"got 'qqq'; there: encoder"),
        ({"no_decay": ["heat"], "weight_decay": 0.1}, r"`no_decay` must match .* got 'heat'; near it: head"),
        ({"lr": 0.0}, r"`lr` must be a finite number above 0, got 0\.0"),
        ({"lr": math.nan}, r"`lr` must be a finite number above 0, got nan"),
        ({"backbone_lr_ratio": -1.0}, r"`backbone_lr_ratio` must be a finite number above 0, got -1\.0"),
        ({"layer_decay": 1.5}, r"`layer_decay` must be above 0 and at most 1, or None, got 1\.5"),
        ({"layer_decay": math.nan}, r"`layer_decay` must be above 0 and at most 1"),
        ({"weight_decay": -0.1}, r"`weight_decay` must be a finite number >= 0, got -0\.1"),
    ],
)
def test_refuses(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        param_groups(Finetuned(), **{"lr": 0.1, **arguments})


def test_refuses_a_lazy_layer() -> None:
    with pytest.raises(ValueError, match=r"no lazy parameters, got `0\.weight`"):
        param_groups(nn.Sequential(nn.LazyLinear(2)), 0.1)


choices = st.fixed_dictionaries(
    {
        "backbone": st.sampled_from([None, "*weight", "net", "*"]),
        "layer_decay": st.sampled_from([None, 0.5, 1.0]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "no_decay": st.sampled_from([(), ("bias",), ("bias", "norm"), ("norm", "*weight")]),
    }
)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from([*MODEL_KINDS, Vit, Resnet, Finetuned]), frozen=st.sets(st.integers(0, 20)), chosen=choices)
def test_every_trainable_parameter_is_in_one_group(
    kind: type[nn.Module], frozen: set[int], chosen: dict[str, Any]
) -> None:
    module = nn.ModuleDict({"net": kind()})
    for place, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(place not in frozen)
    groups = param_groups(module, 0.3, **chosen)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in module.parameters() if p.requires_grad)
    assert len({group["name"] for group in groups}) == len(groups)
    assert all(0 < group["lr"] <= 0.3 and group["weight_decay"] in (0.0, chosen["weight_decay"]) for group in groups)
    if groups:
        torch.optim.AdamW(groups)


@pytest.mark.parametrize("kind", [BNConvNet, TransformerNet])
def test_a_lightning_module(kind: type[nn.Module]) -> None:
    module = kind()
    names = [group["name"] for group in param_groups(module, 1.0, layer_decay=0.7)]
    assert names == [f"depth {depth}" for depth in range(1, len(names) + 1)]
    assert len(names) > 1
