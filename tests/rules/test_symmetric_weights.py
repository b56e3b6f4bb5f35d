"""LT203: layers whose units are copies, however they are written; and equal rows that are no illness."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.findings import Severity
from lightning_tuning.rules.symmetric_weights import duplicate_units, symmetric_weights
from tests.rules.first_steps import Functional, first_step


def filled(layer: nn.Module, value: float = 0.1, name: str = "weight") -> nn.Module:
    nn.init.constant_(layer.get_parameter(name), value)
    return layer


def with_twins(layer: nn.Module) -> nn.Module:
    layer.weight.data[3] = layer.weight.data[1]
    return layer


def cast(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    return layer.to(dtype)


def before_head(layer: nn.Module, features: int = 8) -> nn.Sequential:
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(features, 3))


def images(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], *constant: str) -> None:
        super().__init__()
        self.rnn, self.head = kind(8, 6, batch_first=True), nn.Linear(6, 3)
        for name in constant:
            filled(self.rnn, name=name)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x[:, None])[0][:, -1])


class Experts(nn.Module):
    """Three experts by one product; which dimension is a unit's nobody knows."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.experts, self.head = nn.Parameter(weight), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.einsum("bi,eio->bo", x, self.experts).relu())


FLAT, IMAGE = (16, 8), (4, 8, 6, 6)
SICK: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "constant": (lambda: before_head(filled(nn.Linear(8, 8))), FLAT, "0.weight"),
    "two of eight": (lambda: before_head(with_twins(nn.Linear(8, 8))), FLAT, "0.weight"),
    "functional": (lambda: Functional(torch.ones(8, 4), torch.randn(4, 3)), FLAT, "first"),
    "convolution": (lambda: images(filled(nn.Conv2d(8, 8, 3)), nn.ReLU()), IMAGE, "0.weight"),
    "grouped convolution": (lambda: images(filled(nn.Conv2d(8, 8, 3, groups=2)), nn.ReLU()), IMAGE, "0.weight"),
    "transposed convolution": (lambda: images(filled(nn.ConvTranspose2d(8, 8, 3)), nn.ReLU()), IMAGE, "0.weight"),
    "lstm": (lambda: Recurrent(nn.LSTM, "weight_ih_l0", "weight_hh_l0"), FLAT, "rnn.weight_ih_l0"),
    "gru": (lambda: Recurrent(nn.GRU, "weight_ih_l0", "weight_hh_l0"), FLAT, "rnn.weight_ih_l0"),
    "einsum": (lambda: Experts(torch.ones(3, 8, 8)), FLAT, "experts"),
}


def one_input(values: Tensor) -> nn.Module:
    layer = nn.Linear(1, len(values))
    layer.weight.data = values[:, None]
    return nn.Sequential(nn.Linear(8, 1), layer, nn.ReLU(), nn.Linear(len(values), 3))


class Embedded(nn.Module):
    """New tokens that all start at the mean, behind an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.tokens.weight.data[10:] = self.tokens.weight.data.mean(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(x.argmax(1)))


HEALTHY: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "default": (lambda: before_head(nn.Linear(8, 8)), FLAT),
    "zeros": (lambda: before_head(filled(nn.Linear(8, 8), 0.0)), FLAT),
    "some zero rows": (lambda: before_head(_half_zero(nn.Linear(8, 8))), FLAT),
    "orthogonal": (lambda: before_head(_orthogonal(nn.Linear(8, 8))), FLAT),
    "identity": (lambda: Functional(torch.eye(8), torch.randn(8, 3)), FLAT),
    "dirac": (lambda: images(_dirac(nn.Conv2d(8, 8, 3)), nn.ReLU()), IMAGE),
    "frozen": (lambda: before_head(filled(nn.Linear(8, 8)).requires_grad_(False)), FLAT),
    "depthwise blur": (lambda: images(filled(nn.Conv2d(8, 8, 3, groups=8), 1 / 9), nn.ReLU()), IMAGE),
    "one unit": (lambda: before_head(filled(nn.Linear(8, 1)), 1), FLAT),
    "scale": (lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)), FLAT),
    "lstm with states of its own": (lambda: Recurrent(nn.LSTM, "weight_ih_l0"), FLAT),
    "lstm": (lambda: Recurrent(nn.LSTM), FLAT),
    "coarse": (lambda: one_input(torch.randint(1, 9, (64,), generator=torch.Generator().manual_seed(0)) / 8), FLAT),
    "signs": (lambda: one_input(torch.tensor([1.0, -1.0] * 32)), FLAT),
    "copied experts": (lambda: Experts(torch.randn(1, 8, 8).expand(3, 8, 8).clone()), FLAT),
    "embedding": (Embedded, FLAT),
}


def _half_zero(layer: nn.Linear) -> nn.Module:
    layer.weight.data[4:] = 0
    return layer


def _orthogonal(layer: nn.Linear) -> nn.Module:
    nn.init.orthogonal_(layer.weight)
    return layer


def _dirac(layer: nn.Conv2d) -> nn.Module:
    nn.init.dirac_(layer.weight)
    return layer


def found_in(net: nn.Module, shape: tuple[int, ...]) -> list[tuple[str, Severity]]:
    step = first_step(net, torch.randn(shape))
    findings = [symmetric_weights(found) for found in duplicate_units(step.graph, step.parameters)]
    return [(finding.where, finding.severity) for finding in findings]


@pytest.mark.parametrize("case", SICK)
def test_sick(case: str) -> None:
    make, shape, where = SICK[case]
    assert found_in(make(), shape) == [(where, Severity.ERROR)]


@pytest.mark.parametrize("case", HEALTHY)
def test_healthy(case: str) -> None:
    make, shape = HEALTHY[case]
    assert found_in(make(), shape) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_types(dtype: torch.dtype) -> None:
    for make, expected in ((lambda: nn.Linear(8, 64), []), (lambda: filled(nn.Linear(8, 64)), [("0.weight", 3)])):
        net = before_head(make(), 64).to(dtype)
        step = first_step(net, torch.randn(16, 8, dtype=dtype))
        findings = [symmetric_weights(found) for found in duplicate_units(step.graph, step.parameters)]
        assert [(finding.where, int(finding.severity)) for finding in findings] == expected


def test_an_output_of_copies_still_learns() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), filled(nn.Linear(8, 3)))
    assert found_in(net, FLAT) == [("2.weight", Severity.INFO)]


def test_the_numbers() -> None:
    net = before_head(with_twins(nn.Linear(8, 8)))
    step = first_step(net, torch.randn(FLAT))
    (found,) = duplicate_units(step.graph, step.parameters)
    assert (found.units, found.equal, found.is_output) == (8, 2, False)


def test_tied_weights_are_left_out_by_not_being_given() -> None:
    step = first_step(before_head(filled(nn.Linear(8, 8))), torch.randn(FLAT))
    assert duplicate_units(step.graph, {}) == []


def test_blind() -> None:
    step = first_step(before_head(filled(nn.Linear(8, 8))), torch.randn(FLAT))
    step.graph.blind.append("Something was compiled.")
    assert duplicate_units(step.graph, step.parameters) == []


def test_functional_convolution() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.head = nn.Parameter(torch.ones(8, 8, 3, 3)), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.conv2d(x, self.kernel).relu().mean((2, 3)))

    assert found_in(Net(), IMAGE) == [("kernel", Severity.ERROR)]
