"""LT608: more than half of a layer's units have nothing to say, whatever they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register

if TYPE_CHECKING:
    from lightning_tuning.rules._activation_layers import ActivationLayer

__all__ = ["LT608", "dead_units"]

LT608 = register(
    Rule(
        code="LT608",
        name="dead-units",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "A ReLU that is 0 for every sample passes no gradient, so nothing that the loss says can bring its unit "
            "back: the layer is as narrow as what is left. One update that is too large, or a bias far below 0, does "
            "it. Zeros for some samples are healthy (70 % of an output and more)."
        ),
        remedy=(
            "a lower learning rate or a warm-up, `WeightInitCallback()` and biases of 0; `nn.LeakyReLU(0.1)` or "
            "`nn.GELU()` keep a gradient below 0."
        ),
        source=(
            "Maas et al. 2013, Rectifier Nonlinearities Improve Neural Network Acoustic Models; Lu et al. 2020, Dying "
            "ReLU and Initialization"
        ),
    )
)

_SHARE = 0.5
_LOOKS = 10
_SHOWN = 100
"""Samples and positions that a unit has to be silent for: one that is on for 3 in 100 would have shown itself."""


def dead_units(layer: ActivationLayer, *, dead: float, looks: float, shown: float) -> Finding | None:
    """LT608 for one layer, after some looks at it.

    Args:
        layer: what it is.
        dead: units that were silent in every look, for every sample and position, and had no gradient.
        looks: batches in which the layer was looked at.
        shown: samples and positions that each unit saw in all of them together.

    Returns:
        The finding; ``None`` where more than half of the units live, or too little was seen (below ten batches or a
        hundred samples).
    """
    if not (looks >= _LOOKS and shown >= _SHOWN and dead > _SHARE * layer.units):
        return None
    share = dead / layer.units
    return LT608.finding(
        f"{dead:.0f} of {layer.units} units ({share:.0%} > {_SHARE:.0%}) gave 0 behind {layer.name} and had no "
        f"gradient in each of {looks:.0f} batches",
        where=layer.where,
        source_line=layer.source_line,
        evidence={"dead": int(dead), "units": layer.units, "share": share, "threshold": _SHARE, "batches": int(looks)},
    )
