"""LT609: a hidden layer that sits in the flat ends of its tanh or sigmoid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register

if TYPE_CHECKING:
    from lightning_tuning.rules._activation_layers import ActivationLayer

__all__ = ["LT609", "saturated_units"]

LT609 = register(
    Rule(
        code="LT609",
        name="saturated-units",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "Beyond .97 a tanh has 6 % of its slope left, a sigmoid outside .02 to .98 has 8 %: what lies before such "
            "a layer learns at a tenth of the rate or less, and the layer itself says little more than a sign."
        ),
        remedy=(
            "smaller initial weights (`WeightInitCallback()`), standardized inputs, a lower learning rate; a batch or "
            "layer norm before the activation brings its inputs to where it is steep."
        ),
        source=(
            "Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks, section "
            "3; Ioffe & Szegedy 2015, Batch Normalization"
        ),
    )
)

_SHARE = 0.5
_LOOKS = 10
_FLAT = {"tanh": "abs > .97", "sigmoid": "outside .02 to .98"}


def saturated_units(layer: ActivationLayer, *, share: float, looks: float) -> Finding | None:
    """LT609 for one layer, after some looks at it.

    Args:
        layer: what it is.
        share: of its values that lay in the flat ends, as a mean over the looks.
        looks: batches in which the layer was looked at.

    Returns:
        The finding; ``None`` where at most half were, or fewer than ten batches were seen.
    """
    if not (looks >= _LOOKS and share > _SHARE):
        return None
    return LT609.finding(
        f"{share:.0%} > {_SHARE:.0%} of what {layer.name} gives is saturated ({_FLAT.get(layer.name, 'flat')}), in "
        f"{looks:.0f} batches",
        where=layer.where,
        source_line=layer.source_line,
        evidence={"share": share, "threshold": _SHARE, "units": layer.units, "batches": int(looks)},
    )
