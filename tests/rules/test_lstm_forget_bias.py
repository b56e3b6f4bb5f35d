"""LT208: the effective bias, from whichever of the two it comes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_tuning.rules.lstm_forget_bias import forget_biases, lstm_forget_bias
from lightning_tuning.trace import Op
from tests.rules.first_steps import first_step


class Sequences(nn.Module):
    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.rnn, self.head = make(), nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class Cell(nn.Module):
    """An ``LSTMCell`` unrolled by hand."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 6)
        self.cell.bias_ih.data[6:12] += bias

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state[0], None


def lstm(ih: float = 0.0, hh: float = 0.0, **kwargs: object) -> nn.Module:
    rnn = nn.LSTM(4, 6, batch_first=True, **kwargs)  # type: ignore[arg-type]
    for name, bias in rnn.named_parameters():
        if name.startswith("bias"):
            bias.data[6:12] += ih if "bias_ih" in name else hh
    return rnn


def found_in(make: Callable[[], nn.Module]) -> list[str]:
    torch.manual_seed(0)
    net, x = Sequences(make), torch.randn(3, 5, 4)
    net(x)  # the lazy head
    step = first_step(net, x)
    findings = [lstm_forget_bias(*entry) for entry in forget_biases(step.graph, step.parameters)]
    return [str(finding.evidence["parameter"]) for finding in findings if finding is not None]


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # torch is only slower then
@pytest.mark.parametrize(
    ("make", "biases"),
    [
        (lstm, ["rnn.bias_ih_l0"]),
        (lambda: lstm(num_layers=2, bidirectional=True), [
            "rnn.bias_ih_l0", "rnn.bias_ih_l0_reverse", "rnn.bias_ih_l1", "rnn.bias_ih_l1_reverse",
        ]),
        (lambda: lstm(proj_size=3), ["rnn.bias_ih_l0"]),
        (lambda: lstm(ih=1.0, hh=-1.0), ["rnn.bias_ih_l0"]),
        (Cell, ["rnn.cell.bias_ih"]),
    ],
    ids=["default", "layers and directions", "projected", "cancelled", "cell"],
)  # fmt: skip
def test_half_closed(make: Callable[[], nn.Module], biases: list[str]) -> None:
    assert found_in(make) == biases


@pytest.mark.parametrize(
    "make",
    [
        lambda: lstm(ih=1.0),
        lambda: lstm(hh=1.0),
        lambda: lstm(ih=-2.0),
        lambda: lstm(bias=False),
        lambda: Cell(1.0),
        lambda: nn.GRU(4, 6, batch_first=True),
        lambda: nn.RNN(4, 6, batch_first=True),
        lambda: lstm().requires_grad_(False),
    ],
    ids=["first", "second", "closed on purpose", "no bias", "cell", "gru", "rnn", "frozen"],
)
def test_quiet(make: Callable[[], nn.Module]) -> None:
    assert found_in(make) == []


@pytest.mark.parametrize("bias", [float("nan"), float("inf"), 0.5, -0.5])
def test_numbers_at_the_edge(bias: float) -> None:
    op = Op(0, "lstm", "rnn", "LSTM", None, (), ())
    assert lstm_forget_bias(op, "rnn.bias_ih_l0", bias) is None
