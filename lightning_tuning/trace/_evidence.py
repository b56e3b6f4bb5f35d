"""One operation that lost numbers: what it was called, what went in, which operands are to blame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Evidence", "op_name"]

_NAMES = {
    "addmm": "matmul",
    "mm": "matmul",
    "bmm": "matmul",
    "baddbmm": "matmul",
    "mv": "matmul",
    "addmv": "matmul",
    "convolution": "conv",
    "to_copy": "to",
    "native_batch_norm": "batch_norm",
    "native_batch_norm_legit": "batch_norm",
    "native_batch_norm_legit_no_training": "batch_norm",
    "cudnn_batch_norm": "batch_norm",
    "miopen_batch_norm": "batch_norm",
    "batch_norm_with_update": "batch_norm",
    "batch_norm_no_update": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "fused_rms_norm": "rms_norm",
    "nll_loss_forward": "nll_loss",
    "nll_loss2d_forward": "nll_loss",
    "linalg_vector_norm": "norm",
    "safe_softmax": "softmax",
    "true_divide": "div",
    "var_mean": "var",
    "std_mean": "std",
    "mkldnn_rnn_layer": "lstm",
}


@dataclass(frozen=True)
class Evidence:
    """One operation that made a number that is not finite.

    Attributes:
        op: its name, as :func:`op_name` gives it.
        aten: torch's name.
        inputs: tensors that went in, as they were before.
        scalars: numbers among its arguments, in order.
        output: the first tensor that is not finite.
        pointwise: each value of the output depends on those at the same place of the inputs.
        arguments: by the names of the operator's schema.
        function: the one of ``torch.nn.functional`` that the user called and that ran it, if there is one.
    """

    op: str
    aten: str
    inputs: Sequence[Tensor]
    scalars: Sequence[float]
    output: Tensor
    pointwise: bool
    arguments: dict[str, Any]
    function: str | None = None

    def offenders(self) -> list[float]:
        """The operands of the first value that was lost although it had finite operands; empty unless pointwise."""
        operands = [tensor for tensor in self.inputs if tensor.numel()]
        if not self.pointwise or not operands:
            return []
        try:
            spread = [tensor.broadcast_to(self.output.shape) for tensor in operands]
        except RuntimeError:  # says pointwise, and is not
            return []
        lost = ~torch.isfinite(self.output)
        for tensor in spread:
            lost = lost & torch.isfinite(tensor)
        if not lost.any():
            return []
        place = tuple(torch.nonzero(lost)[0].tolist())
        return [float(tensor[place].item()) for tensor in spread]


def op_name(aten: str) -> str:
    """The common name of ``"aten::_log_softmax"``: ``"log_softmax"``.

    Example:
        >>> op_name("aten::log_"), op_name("aten::addmm"), op_name("aten::_scaled_dot_product_flash_attention")
        ('log', 'matmul', 'scaled_dot_product_attention')
    """
    bare = aten.rpartition("::")[2].strip("_")
    if bare.startswith("scaled_dot_product"):
        return "scaled_dot_product_attention"
    return _NAMES.get(bare, bare)
