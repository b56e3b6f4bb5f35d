"""LT208: an LSTM whose forget gates start half closed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._ops import place

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LT208", "ForgetBias", "forget_biases", "lstm_forget_bias"]

LT208 = register(
    Rule(
        code="LT208",
        name="lstm-forget-bias",
        severity=Severity.INFO,
        kind="advice",
        why=(
            "A forget gate at sigmoid(0) = .5 halves the cell at every step: after ten steps a thousandth is left, of "
            "the gradient too. With a bias of 1 LSTMs did as well as the best cells of a search over ten thousand."
        ),
        remedy=(
            "`WeightInitCallback()` does it; by hand 1.0 in one of the two biases: "
            "`lstm.bias_hh_l0.data[hidden:2 * hidden].fill_(1.0)`."
        ),
        source="Jozefowicz et al. 2015, An Empirical Exploration of Recurrent Network Architectures, 2.1 and 4",
    )
)

_NEAR_ZERO = 0.5

ForgetBias = tuple["Op", str, float]
"""The layer, the dotted name of its first bias, and the mean effective bias of its forget gates."""


def forget_biases(graph: Graph, parameters: Mapping[str, Tensor]) -> list[ForgetBias]:
    """The effective bias of the forget gates of each LSTM, layer and direction, that a loss depends on.

    Torch's two biases are added before the gate; of ``(input, forget, cell, output)`` the second quarter is meant.
    Reads values back (one device sync for each).

    Args:
        graph: of the first step.
        parameters: by the names that they have in the graph; what is missing is left out.
    """
    found: list[ForgetBias] = []
    for op in graph.find("lstm", "lstm_cell", feeding=True):
        biases = [
            (name, parameters[name].detach())
            for name in op.parameters
            if name in parameters and parameters[name].dim() == 1 and parameters[name].requires_grad
        ]
        for (name, first), (_, second) in zip(biases[::2], biases[1::2], strict=False):
            if first.shape == second.shape and first.numel() % 4 == 0:
                hidden = first.numel() // 4
                found.append((op, name, float((first + second)[hidden : 2 * hidden].float().mean())))
    return list({name: entry for entry in reversed(found) for name in [entry[1]]}.values())[::-1]


def lstm_forget_bias(op: Op, name: str, bias: float) -> Finding | None:
    """LT208 if the effective ``bias`` of the forget gates is near 0; a negative one is somebody's choice.

    Args:
        op: the LSTM.
        name: dotted name of one of its biases.
        bias: mean over the hidden units.
    """
    if not abs(bias) < _NEAR_ZERO:
        return None
    return LT208.finding(
        f"the forget gates of {place(op)} start with a bias of {bias:.2g} "
        f"(`{name}` and its partner), below {_NEAR_ZERO}",
        where=op.module,
        evidence={"forget_bias": bias, "threshold": _NEAR_ZERO, "parameter": name},
    )
