"""What a probe measures at the inputs of weight layers, against the formula; samples first or time first."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_tuning.checks._signal_probe import SignalProbe
from lightning_tuning.rules.signal_collapse import Signal
from lightning_tuning.trace import Recorder


def signals(net: nn.Module, x: Tensor, batch: dict[str, Tensor] | None = None) -> list[Signal]:
    probe = SignalProbe()
    probe.expect({"batch": x} if batch is None else batch)
    with Recorder(net, x, [probe]):
        net(x)
    return list(probe.signals().values())


def exact(x: Tensor, dim: int = 0) -> Signal:
    variation = x.var(dim, correction=0).mean().sqrt() / x.square().mean().sqrt()
    return Signal(float(variation), float(x.square().mean().sqrt()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("net", "shape"),
    [(nn.Linear(8, 2), (12, 8)), (nn.Conv2d(3, 2, 3), (12, 3, 5, 5)), (nn.LSTM(8, 2, batch_first=True), (12, 4, 8))],
    ids=["linear", "convolution", "lstm"],
)
def test_samples_first(net: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (torch.randn(shape) + 3).to(dtype)
    (signal,) = signals(net.to(dtype), x)
    assert signal == pytest.approx(exact(x.float()), rel=1e-3)


def test_time_first() -> None:
    labels, x = torch.zeros(12), torch.randn(5, 1, 8) + 0.01 * torch.randn(5, 12, 8)
    (signal,) = signals(nn.LSTM(8, 2), x, {"labels": labels})
    assert signal == pytest.approx(exact(x, 1), rel=1e-3)


def test_a_constant_has_no_variation() -> None:
    (signal,) = signals(nn.Linear(8, 2), torch.full((12, 8), 5.0))
    assert signal == pytest.approx((0.0, 5.0))
    assert signals(nn.Linear(8, 2), torch.zeros(12, 8)) == [(0.0, 0.0)]


@pytest.mark.parametrize("shape", [(3, 8), (8,)])
def test_too_few_samples_say_nothing(shape: tuple[int, ...]) -> None:
    assert signals(nn.Linear(8, 2), torch.randn(shape)) == []


def test_products_of_two_activations_are_no_layers() -> None:
    class Scores(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.t()

    assert signals(Scores(), torch.randn(12, 8)) == []
