from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_tuning.functional import BatchRenorm1d, BatchRenorm2d, FrozenBatchNorm, convert_batch_norm
from lightning_tuning.functional.batch_norm_conversion import group_count
from lightning_tuning.functional.inserted_layers import insert_layer

X = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(3))


def trained() -> nn.Sequential:
    """With statistics, scales and shifts that are not those of the start."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 32), nn.BatchNorm1d(32)
    )
    with torch.no_grad():
        for norm in (net[1], net[5]):
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
        for _ in range(3):
            net(X)
    return net


@pytest.mark.parametrize("to", ["frozen", "renorm", "sync"])
def test_statistics_scale_and_shift_are_the_same_bit_for_bit_and_so_is_evaluation(to: Any) -> None:
    net = trained()
    before, expected = copy.deepcopy(net.state_dict()), net.eval()(X)
    converted = convert_batch_norm(net, to)
    assert converted is net
    assert (
        type(net[1]).__name__ == {"frozen": "FrozenBatchNorm", "renorm": "BatchRenorm2d", "sync": "SyncBatchNorm"}[to]
    )
    assert {*before} == {*net.state_dict()}
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(net.eval()(X), expected)
    trained().load_state_dict(net.state_dict())  # and back


def test_frozen_is_batch_norm_in_evaluation_whatever_train_says() -> None:
    net, frozen = trained().eval(), convert_batch_norm(trained(), "frozen")
    for mode in (True, False):
        frozen.train(mode)
        torch.testing.assert_close(frozen(X), net(X), rtol=0, atol=0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(frozen[1].buffers(), [net[1].weight, net[1].bias, *net[1].buffers()], strict=True)
    )
    assert [*frozen[1].parameters()] == []


def test_frozen_with_scale_and_shift_that_train() -> None:
    net = trained()
    weight = net[1].weight
    convert_batch_norm(net, "frozen", freeze_affine=False)
    assert net[1].weight is weight
    net(X).sum().backward()
    assert weight.grad is not None
    assert "freeze_affine=False" in repr(net[1])


def test_group_is_torchs_own() -> None:
    net = trained()
    expected = nn.GroupNorm(4, 8, net[1].eps)
    expected.load_state_dict({"weight": net[1].weight, "bias": net[1].bias})
    convert_batch_norm(net, "group")
    features = net[0](X)
    assert torch.equal(net[1](features), expected(features))
    assert (net[1].num_groups, net[5].num_groups) == (4, 2)
    assert "1.running_mean" not in net.state_dict()
    missing = trained().load_state_dict(net.state_dict(), strict=False).missing_keys
    assert all("running" in key or "num_batches" in key for key in missing)


@given(channels=st.integers(1, 300), groups=st.integers(1, 64), least=st.integers(1, 32))
def test_the_count_of_groups_is_the_largest_that_fits(channels: int, groups: int, least: int) -> None:
    fitting = [g for g in range(1, groups + 1) if channels % g == 0 and (channels // g >= least or g == 1)]
    assert group_count(channels, groups, least=least) == max(fitting)


def test_renorm_has_its_arguments_and_the_momentum_that_was() -> None:
    net = trained()
    net[1].momentum = 0.03
    convert_batch_norm(net, "renorm", r_max=2.0, d_max=1.0, r_steps=(1, 2), d_steps=(3, 4))
    norm = net[1]
    assert isinstance(net[5], BatchRenorm1d)
    assert (norm.r_max, norm.d_max, norm.r_steps, norm.d_steps, norm.momentum) == (2.0, 1.0, (1, 2), (3, 4), 0.03)


@pytest.mark.parametrize("to", ["group", "sync", "frozen", "renorm"])
def test_one_batch_norm_at_two_places_stays_one(to: Any) -> None:
    net = nn.Sequential(shared := nn.BatchNorm1d(4), nn.Linear(4, 4), shared)
    convert_batch_norm(net, to)
    assert net[0] is net[2]
    assert not isinstance(net[0], nn.BatchNorm1d)


@pytest.mark.parametrize("to", ["group", "sync", "frozen", "renorm"])
@pytest.mark.parametrize("training", [True, False])
def test_again_is_nothing_modes_and_pickles_are_kept(to: Any, training: bool) -> None:
    net = convert_batch_norm(trained().train(training), to)
    norm = net[1]
    assert norm.training is training
    assert convert_batch_norm(net, to, include="1")[1] is norm
    again = pickle.loads(pickle.dumps(net))
    assert torch.equal(again(X), net(X))


def test_include_and_exclude() -> None:
    net = nn.ModuleDict({"backbone": trained(), "head": nn.BatchNorm1d(2)})
    convert_batch_norm(net, "frozen", include="backbone", exclude=["backbone.5"])
    assert isinstance(net["backbone"][1], FrozenBatchNorm)
    assert isinstance(net["backbone"][5], nn.BatchNorm1d)
    assert isinstance(net["head"], nn.BatchNorm1d)


def test_a_batch_norm_by_itself_and_one_without_scale() -> None:
    assert isinstance(convert_batch_norm(nn.BatchNorm2d(4), "renorm"), BatchRenorm2d)
    plain = nn.BatchNorm1d(4, affine=False)
    for to in ("group", "frozen", "renorm"):
        norm = convert_batch_norm(copy.deepcopy(plain), to)  # type: ignore[arg-type]
        assert norm.weight is None
        norm(torch.randn(3, 4))


def test_a_layer_that_was_inserted_behind_stays_there() -> None:
    net = trained()
    insert_layer(net[1], nn.Identity(), "behind")
    calls: list[int] = []
    net[1].inserted_behind.register_forward_hook(lambda *_: calls.append(1))
    convert_batch_norm(net, "group")
    net(X)
    assert calls == [1]


def test_what_was_frozen_by_requires_grad_stays_so() -> None:
    net = trained().requires_grad_(False)
    convert_batch_norm(net, "group")
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(
    ("to", "arguments", "message"),
    [
        ("layer", {}, r"`to` must be one of \('group', 'sync', 'frozen', 'renorm'\), got 'layer'\."),
        ("group", {"groups": 0}, r"`groups` must be a whole number of at least 1, got 0\."),
        ("group", {"include": "nothing"}, r"`include` must mean a batch norm, got 'nothing'; there are: 1, 5\."),
        ("group", {"exclude": ["0"]}, r"`exclude` must mean a batch norm, got '0'; there are: 1, 5\."),
        ("group", {"include": [3]}, r"`include` must hold globs on dotted names, got 3\."),
        ("renorm", {"r_max": 0.0}, r"`r_max` must be a finite number of at least 1, got 0\.0\."),
    ],
)
def test_bad_arguments(to: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert_batch_norm(trained(), to, **arguments)


@pytest.mark.parametrize("to", ["frozen", "renorm"])
def test_no_statistics_to_freeze(to: Any) -> None:
    net = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(ValueError, match=r"`to` must be 'group' or 'sync' for `0`, which keeps no running statistics"):
        convert_batch_norm(net, to)
