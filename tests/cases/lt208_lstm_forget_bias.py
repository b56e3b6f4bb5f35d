"""LT208: torch's LSTM as it comes, against one whose forget gates start open."""

from __future__ import annotations

from tests.cases.case import Case, Run
from tests.helpers import LSTMNet


class Open(LSTMNet):
    def __init__(self, bias: float) -> None:
        super().__init__()
        lstm = self.net["lstm"]
        lstm.bias_hh_l0.data[lstm.hidden_size : 2 * lstm.hidden_size].add_(bias)


CASES = [
    Case(
        code="LT208",
        sick=Run(lambda: Open(0.0)),
        healthy=Run(lambda: Open(1.0)),
        where="net.lstm",
        severity="info",
    ),
]
