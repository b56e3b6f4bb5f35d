"""Layer-sequential unit variance, all layers in one pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from lightning_tuning.functional.variance_scale import VarianceScale, unit_variance_scale
from lightning_tuning.trace import Op
from lightning_tuning.treatments._init_trace import PRODUCTS

__all__ = ["LsuvProbe"]


class LsuvProbe:
    """Scales the output of each layer in passing, as if its weight had been scaled, and notes the factors.

    For steps that are run aside alone: it writes to the tensors that it is shown. A layer's output is linear in its
    weight, so that scaling the output is scaling the weight; and since operations come in the order of execution, each
    layer is measured behind those that are scaled already. That is the algorithm of Mishkin & Matas (2016) for the
    price of one forward pass instead of one to ten for each layer.

    Args:
        names: dotted names of the weights, as the trace has them.
        tol: see :func:`unit_variance_scale`.
    """

    names: Collection[str] = PRODUCTS

    def __init__(self, names: Collection[str], tol: float) -> None:
        self.scales: dict[str, VarianceScale | None] = {}
        self._wanted = frozenset(names)
        self._tol = tol

    def look(self, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Measure and scale one output. A device sync for each weight."""
        name = next((name for name in op.parameters if name in self._wanted), None)
        if name is None or len(outputs) != 1:
            return
        output = outputs[0].data  # writes to it are not counted: autograd and the recorder must not take them for real
        bias = _bias(op, inputs)
        if name not in self.scales:  # a weight that is used again keeps its scale
            self.scales[name] = unit_variance_scale(output, bias, tol=self._tol)
        found = self.scales[name]
        if found is not None:
            offset: Tensor | float = 0.0 if bias is None else bias.to(output.dtype)
            output.sub_(offset).mul_(found.scale).add_(offset)


def _bias(op: Op, inputs: Sequence[Tensor]) -> Tensor | None:
    """What the layer adds, in a shape that broadcasts to its output."""
    weights = [t for t in inputs if isinstance(t, torch.nn.Parameter)]
    bias = next((t for t in weights if t.dim() == 1), None)
    if bias is None:
        return None
    if not op.name.startswith("conv"):
        return bias.detach() if op.name in _WITH_BIAS else None
    kernel = next(t for t in weights if t.dim() >= 3)
    return bias.detach().reshape(-1, *[1] * (kernel.dim() - 2))


_WITH_BIAS = ("linear", "bilinear", "addmm")
