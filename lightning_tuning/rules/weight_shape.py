"""LT209: the weight of a linear layer stands the wrong way round."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT209", "transposed_linears", "weight_shape"]

LT209 = register(
    Rule(
        code="LT209",
        name="weight-shape",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "`nn.Linear` computes x @ weight.T, so its weight is (out_features, in_features); a tensor of shape (in, "
            "out) does not fit the input, and the forward pass ends with a RuntimeError about shapes."
        ),
        remedy="`layer.weight = nn.Parameter(tensor.t())`, or `layer.weight.data.copy_(tensor.t())`.",
        source="Documentation of torch.nn.Linear; TensorFlow's and Keras's Dense keep (in, out)",
    )
)


def transposed_linears(root: nn.Module) -> list[Finding]:
    """LT209 for every layer in ``root`` that is applied as ``nn.Linear`` and whose weight does not fit that.

    A layer with a ``forward`` of its own may keep its weight as it likes.
    """
    found = []
    for path, module in root.named_modules():
        if not isinstance(module, nn.Linear) or type(module).forward is not nn.Linear.forward:
            continue
        weight = module._parameters.get("weight")  # not the attribute: a parametrization would compute something
        if weight is None or hasattr(weight, "to_local") or nn.parameter.is_lazy(weight):
            continue
        name = f"{path}.weight" if path else "weight"
        finding = weight_shape(name, weight.shape, module.in_features, module.out_features)
        found += [] if finding is None else [finding]
    return found


def weight_shape(name: str, shape: Sequence[int], in_features: int, out_features: int) -> Finding | None:
    """LT209 if ``shape`` is the transpose of what a linear layer needs; a square one shows nothing.

    Args:
        name: dotted name of the weight.
        shape: its sizes.
        in_features: of the layer.
        out_features: of the layer.

    Example:
        >>> weight_shape("head.weight", (64, 10), 64, 10).message
        'its shape is (64, 10) = (in, out); nn.Linear(64, 10) needs (10, 64)'
        >>> weight_shape("head.weight", (10, 64), 64, 10)
    """
    if tuple(shape) != (in_features, out_features) or in_features == out_features:
        return None
    return LT209.finding(
        f"its shape is ({in_features}, {out_features}) = (in, out); nn.Linear({in_features}, {out_features}) needs "
        f"({out_features}, {in_features})",
        where=name,
        evidence={"rows": in_features, "columns": out_features},
    )
