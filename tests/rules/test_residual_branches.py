"""Which sums are residual branches, and which only look like it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_tuning.rules._residual_branches import ResidualBranch, residual_branches
from lightning_tuning.trace import Recorder


class Net(nn.Module):
    """Named layers, and any function of them and the input."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def branches(net: nn.Module, x: Tensor) -> list[ResidualBranch]:
    with Recorder(net, x) as recorder:
        loss = net(x).square().mean()
        recorder.mark_loss(loss)
    assert recorder.graph.blind == []
    return recorder.graph.answer(residual_branches)


def linear(*sizes: int) -> dict[str, nn.Module]:
    return {name: nn.Linear(*sizes) for name in ("a", "b", "c")}


def conv(kernel: int = 3, channels: int = 4) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2)


X = torch.randn(3, 6)
IMAGE = torch.randn(2, 4, 8, 8)


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: x + s.b(s.a(x).relu()),
        lambda s, x: s.b(s.a(x).relu()) + x,
        lambda s, x: s.b(s.a(x).relu()).add_(x),
        lambda s, x: x.reshape(3, 6) + 0.1 * torch.dropout(s.b(s.a(x).relu()), 0.1, train=True),
        lambda s, x: s.c(x) + s.b(s.a(x).relu()),
        lambda s, x: torch.relu(x + s.b(s.a(x).tanh())),
    ],
)
def test_plain_ones_are_found(forward: Callable[[Any, Tensor], Tensor]) -> None:
    (found,) = branches(Net(forward, **linear(6, 6)), X)
    assert found.layers == ("a.weight", "b.weight")
    assert (found.switch, found.is_norm, found.has_norm, found.obstacle) == ("b.weight", False, False, "")


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: s.a(x) + s.b(x),  # two maps of one input
        lambda s, x: s.c(x) + s.a(x).relu(),
        lambda s, x: x + x.relu(),  # no layer
        lambda s, x: s.a(x) + s.a.bias,  # a parameter
        lambda s, x: s.a(x).relu() + s.b(x).relu(),  # neither is an identity
        lambda s, x: s.a(x).sigmoid() * x + (1 - s.a(x).sigmoid()) * s.b(x),  # a gate
        lambda s, x: s.a(x).sum() + s.b(s.a(x)).sum(),  # numbers
        lambda s, x: s.a(x.relu()) - x,  # a difference
        lambda s, x: torch.nn.functional.layer_norm(x, (6,)) + s.b(s.a(x).relu()),  # the skip is normalized
    ],
)
def test_what_only_looks_like_it_is_left(forward: Callable[[Any, Tensor], Tensor]) -> None:
    assert branches(Net(forward, **linear(6, 6)), X) == []


def test_a_branch_that_is_read_elsewhere_is_none() -> None:
    def pyramid(s: Any, x: Tensor) -> Tensor:
        deep = s.b(s.a(x).relu())
        return torch.cat([s.c(x) + deep, deep], 1)

    assert branches(Net(pyramid, **linear(6, 6)), X) == []


@pytest.mark.parametrize(
    ("forward", "obstacle"),
    [
        (lambda s, x: x + s.b(s.a(x).relu()).relu(), "it ends in 'relu'"),  # whose gradient at 0 is 0
        (lambda s, x: x + s.scale * s.b(s.a(x)), "it is multiplied by a scale of its own"),
        (lambda s, x: x + s.b(s.a(x)) * s.c(x).sigmoid(), "it ends in a product or sum of several ways"),
        (lambda s, x: x + torch.nn.functional.layer_norm(s.a(x), (6,)), "it ends in a normalization without a scale"),
        (lambda s, x: x + s.lstm(x.unsqueeze(0))[0].squeeze(0), "it ends in a recurrent layer"),
    ],
)
def test_what_stands_in_the_way_is_said(forward: Callable[[Any, Tensor], Tensor], obstacle: str) -> None:
    layers = {**linear(6, 6), "scale": nn.Parameter(torch.ones(6)), "lstm": nn.LSTM(6, 6)}
    (found,) = branches(Net(forward, **layers), X)
    assert (found.obstacle, found.switch) == (obstacle, "")


def test_a_resnet_block_ends_in_its_norm() -> None:
    def block(s: Any, x: Tensor) -> Tensor:
        identity = x
        out = torch.relu_(s.n1(s.c1(x)))
        out = s.n2(s.c2(out))
        out += identity
        return torch.relu_(out)

    def down(s: Any, x: Tensor) -> Tensor:
        return s.skip(x) + s.n2(s.c2(torch.relu(s.n1(s.c1(x)))))

    layers = {"c1": conv(), "c2": conv(), "n1": nn.BatchNorm2d(4), "n2": nn.BatchNorm2d(4)}
    skip = nn.Sequential(nn.AvgPool2d(1), conv(1), nn.BatchNorm2d(4))
    for net in (Net(block, **layers), Net(down, **layers, skip=skip)):
        (found,) = branches(net, IMAGE)
        assert (found.layers, found.switch, found.is_norm) == (("c1.weight", "c2.weight"), "n2.weight", True)
        assert found.has_norm
    assert branches(Net(down, **layers, skip=conv(3)), IMAGE) == []  # a kernel of 3 is no projection


def test_subsampled_and_padded_skips_are_identities() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        skip = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return skip + s.c2(s.c1(x).relu())

    net = Net(forward, c1=nn.Conv2d(4, 8, 3, stride=2, padding=1), c2=conv(channels=8))
    (found,) = branches(net, IMAGE)
    assert found.switch == "c2.weight"


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer_layer_has_two(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    first, second = branches(layer, torch.randn(2, 5, 8))
    assert first.layers == ("self_attn.in_proj_weight", "self_attn.out_proj.weight")
    assert first.switch == "self_attn.out_proj.weight"
    assert (second.layers, second.switch) == (("linear1.weight", "linear2.weight"), "linear2.weight")


def test_cross_attention_may_read_a_memory() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 8)
            self.layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x, self.embed(x).relu())

    found = branches(Decoder(), torch.randn(2, 5, 8))
    assert [branch.switch for branch in found] == [
        "layer.self_attn.out_proj.weight",
        "layer.multihead_attn.out_proj.weight",
        "layer.linear2.weight",
    ]


def test_one_around_others_is_left() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        inner = s.a(x)
        return x + s.c((inner + s.b(inner)).relu())

    inner, outer = branches(Net(forward, **linear(6, 6)), X)
    assert (inner.switch, inner.obstacle) == ("b.weight", "")
    assert (outer.switch, outer.obstacle) == ("", "it holds other residual branches")


def test_without_a_loss_everything_counts() -> None:
    net = Net(lambda s, x: x + s.b(s.a(x).relu()), **linear(6, 6))
    with Recorder(net, X) as recorder:
        net(X)
    assert [branch.switch for branch in recorder.graph.answer(residual_branches)] == ["b.weight"]
