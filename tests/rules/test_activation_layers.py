from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.rules._activation_layers import ActivationLayer, activation_layers
from tests.rules.graphs import Lambda, Loss, classes, rows, squares, step_of


def linear(*sizes: int) -> list[nn.Linear]:
    return [nn.Linear(one, other) for one, other in itertools.pairwise(sizes)]


def layers_of(net: nn.Module, x: Tensor | None = None, loss: Loss = classes) -> list[ActivationLayer]:
    return activation_layers(step_of(net, rows() if x is None else x, loss))


def facts(net: nn.Module, x: Tensor | None = None) -> list[tuple[Any, ...]]:
    return [(f.kind, f.name, f.where, f.units, f.dim, f.parameter) for f in layers_of(net, x)]


A, B, C = linear(8, 16, 16, 3)

SPELLINGS = {
    "module": (nn.ReLU(), "relu"),
    "in place": (nn.ReLU(inplace=True), "relu"),
    "functional": (Lambda(lambda _, x: F.relu(x)), "relu"),
    "torch": (Lambda(lambda _, x: torch.relu(x)), "relu"),
    "method": (Lambda(lambda _, x: x.relu()), "relu"),
    "clamp": (Lambda(lambda _, x: x.clamp(min=0)), "clamp"),
    "clamp_min": (Lambda(lambda _, x: x.clamp_min(0)), "clamp_min"),
    "relu6": (nn.ReLU6(), "hardtanh"),  # torch calls it so
    "relu6 functional": (Lambda(lambda _, x: torch._C._nn.relu6(x)), "relu6"),
    "hardtanh": (nn.Hardtanh(0, 6), "hardtanh"),
    "threshold": (nn.Threshold(0, 0), "threshold"),
    "gelu": (nn.GELU(), "gelu"),
    "leaky": (nn.LeakyReLU(), "leaky_relu"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_rectifier_is_known_however_it_is_written(spelling: str) -> None:
    activation, name = SPELLINGS[spelling]
    assert facts(nn.Sequential(nn.Linear(8, 16), activation, nn.Linear(16, 3))) == [
        ("rectifier", name, "0", 16, -1, "0.bias")
    ]


@pytest.mark.parametrize(
    "activation",
    [nn.Hardtanh(), nn.Threshold(0.1, 0), Lambda(lambda _, x: x.clamp(min=-1)), nn.Softplus(), nn.ELU()],
    ids=str,
)
def test_what_does_not_cut_at_zero_is_none(activation: nn.Module) -> None:
    assert facts(nn.Sequential(nn.Linear(8, 16), activation, nn.Linear(16, 3))) == []


@pytest.mark.parametrize(
    ("net", "x", "expected"),
    [
        (
            nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)),
            rows(4, 1, 8, 8),
            ("rectifier", "relu", "0", 6, -3, "1.bias"),
        ),
        (
            nn.Sequential(nn.Conv1d(2, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)),
            rows(4, 2, 8),
            ("rectifier", "relu", "0", 6, -2, "0.weight"),
        ),
        (
            nn.Sequential(nn.Linear(8, 16, bias=False), nn.Dropout(0.1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3)),
            rows(4, 5, 8),
            ("rectifier", "relu", "0", 16, -1, "0.weight"),
        ),
        (
            Lambda(
                lambda p, x: p["c"](F.relu(p["n"](p["a"](x).transpose(1, 2))).mean(-1)),
                a=nn.Linear(8, 16), n=nn.BatchNorm1d(16), c=nn.Linear(16, 3),
            ),
            rows(4, 5, 8),
            ("rectifier", "relu", "parts.a", 16, -2, "parts.n.bias"),
        ),
        (nn.Sequential(A, nn.Tanh(), C), rows(), ("squash", "tanh", "0", 16, -1, "0.bias")),
        (nn.Sequential(A, nn.Sigmoid(), B, C), rows(), ("squash", "sigmoid", "0", 16, -1, "0.bias")),
    ],
    ids=["maps", "signals", "sequence", "turned", "tanh", "sigmoid"],
)  # fmt: skip
def test_units_and_their_place(net: nn.Module, x: Tensor, expected: tuple[Any, ...]) -> None:
    assert facts(net, x) == [expected]


def gated(p: nn.ModuleDict, x: Tensor) -> Tensor:
    return p["c"](torch.tanh(p["a"](x)) * torch.sigmoid(p["b"](x)))


def excited(p: nn.ModuleDict, x: Tensor) -> Tensor:
    x = p["a"](x)
    return p["c"](x * torch.sigmoid(p["up"](F.relu(p["down"](x)))))


def pooled(p: nn.ModuleDict, x: Tensor) -> Tensor:
    x = p["a"](x[:, None].expand(-1, 5, -1))
    weights = torch.softmax(p["score"](torch.tanh(p["b"](x))), 1)
    return p["c"]((weights * x).sum(1))


def recurrent(p: nn.ModuleDict, x: Tensor) -> Tensor:
    hidden = x.new_zeros(len(x), 16)
    for _ in range(4):
        hidden = torch.tanh(p["a"](x) + p["b"](hidden))
    return p["c"](hidden)


def experts(p: nn.ModuleDict, x: Tensor) -> Tensor:
    x = p["a"](x)
    chosen = x[:, 0] > 0
    out = torch.zeros_like(x)
    out[chosen] = p["up"](F.relu(p["down"](x[chosen])))
    return p["c"](x + out)


def residual(p: nn.ModuleDict, x: Tensor) -> Tensor:
    x = p["a"](x)
    return p["c"](F.relu(x + p["b"](x)))


PARTS = {"a": (8, 16), "b": (16, 16), "c": (16, 3), "down": (16, 8), "up": (8, 16), "score": (16, 1)}


def net_of(function: Any, **sizes: tuple[int, int]) -> Lambda:
    return Lambda(function, **{name: nn.Linear(*size) for name, size in {**PARTS, **sizes}.items()})


@pytest.mark.parametrize(
    "net",
    [
        net_of(gated, b=(8, 16)),
        net_of(excited),
        net_of(pooled),
        net_of(recurrent),
        net_of(experts),
        net_of(residual),
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))[:2],  # an activation on the output
        nn.Sequential(nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 3)),  # three units are no layer
        nn.Sequential(nn.Linear(8, 16).requires_grad_(False), nn.ReLU(), nn.Linear(16, 3)),
    ],
    ids=["gates", "squeeze", "pooling", "cell", "experts", "sum", "output", "narrow", "frozen"],
)
def test_left_out(net: nn.Module) -> None:
    assert facts(net) == []


def test_a_hinge_is_no_layer() -> None:
    def hinge(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.relu(1 - net(x)[:, 0] * (2 * y - 1)).mean() + F.relu(0.1 + net(x)).mean()

    assert layers_of(nn.Linear(8, 6), loss=hinge) == []


def test_sampled_twice_is_one_layer_and_shared_modules_are_two() -> None:
    activation = nn.ReLU()
    a, b, c = linear(8, 16, 16, 3)
    twice = Lambda(lambda p, x: p["net"](x) + p["net"](2 * x), net=nn.Sequential(a, activation, b, activation, c))
    found = layers_of(twice)
    assert [(layer.where, len(layer.ops)) for layer in found] == [("parts.net.0", 2), ("parts.net.2", 2)]


def attention(p: nn.ModuleDict, x: Tensor) -> Tensor:
    x = p["a"](x)
    return p["c"](((x @ x.transpose(-2, -1)).softmax(-1) @ p["b"](x)).mean(1))


def built_in(p: nn.ModuleDict, x: Tensor, *, needed: bool) -> Tensor:
    x = p["a"](x)
    return p["c"](p["m"](x, x, x, need_weights=needed)[0].mean(1))


def multihead(*, needed: bool) -> Lambda:
    parts = {"a": nn.Linear(8, 16), "c": nn.Linear(16, 3), "m": nn.MultiheadAttention(16, 2, batch_first=True)}
    return Lambda(lambda p, x: built_in(p, x, needed=needed), **parts)


@pytest.mark.parametrize(
    ("net", "name", "where"),
    [
        (net_of(attention), "softmax", ""),
        (multihead(needed=True), "softmax", "parts.m"),
        (multihead(needed=False), "scaled_dot_product_attention", "parts.m"),
    ],
    ids=["written out", "with weights", "without"],
)
def test_attention_is_known(net: nn.Module, name: str, where: str) -> None:
    assert facts(net, rows(4, 5, 8)) == [("attention", name, where, 5, -1, None)]


def test_a_softmax_on_the_output_is_no_attention() -> None:
    net = nn.Sequential(nn.Linear(8, 6), nn.Softmax(-1))
    assert layers_of(net, rows(4, 5, 8), lambda net, x, y: squares(net, x[:, 0], y)) == []
    assert facts(net_of(attention), rows(4, 3, 8)) == []  # three keys
