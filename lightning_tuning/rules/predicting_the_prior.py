"""LT805: the net gives every sample the same answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LOOKS", "LT805", "Spread", "predicting_the_prior"]

LT805 = register(
    Rule(
        code="LT805",
        name="predicting-the-prior",
        severity=Severity.WARNING,
        kind="outcome",
        why=(
            "The outputs hardly differ between samples whose targets do: what tells samples apart is lost on the way, "
            "and the bias of the last layer is all that learns. Such a net ends at the prior of the labels."
        ),
        remedy=(
            "see where the samples become alike: inputs (all zero, of one value, wrongly scaled), dead ReLUs after a "
            "learning rate that was too high, a depth without normalization; mend the suspects in their order."
        ),
        source="Karpathy 2019, A Recipe for Training Neural Networks, 'input-independent baseline'",
    )
)

LOOKS = 3
"""Batches, some steps apart, that all have to say so."""
_CONSTANT = 0.02
"""Of the targets' spread; a regression with R2 .01 spreads by .1, torch's default init by .1 to .3."""


class Spread(NamedTuple):
    """How much predictions and targets of one batch differ between its samples.

    Attributes:
        prediction: variance between samples; of classes that of their probabilities, summed over classes.
        target: likewise; 0 where it is not known.
        samples: of the batch.
    """

    prediction: float
    target: float
    samples: int


def predicting_the_prior(spreads: Sequence[Spread], *, where: str = "") -> Finding | None:
    """LT805 if in all of at least three batches the outputs spread by less than .02 of what the targets do.

    Args:
        spreads: of batches whose targets differ; others say nothing.
        where: module path of the layer that gives the outputs.

    Example:
        >>> predicting_the_prior([Spread(1e-9, 0.67, 16)] * 3, where="net.4").message
        'the outputs for 16 samples spread by 4e-05 of what their targets do, in 3 batches'
        >>> predicting_the_prior([Spread(0.01, 0.67, 16)] * 3)
    """
    telling = [spread for spread in spreads if spread.target > 0 and spread.samples > 1]
    if len(telling) < LOOKS or not all(0 <= spread.prediction < math.inf for spread in telling):
        return None
    ratios = [math.sqrt(spread.prediction / spread.target) for spread in telling]
    if max(ratios) >= _CONSTANT:
        return None
    samples = telling[-1].samples
    return LT805.finding(
        f"the outputs for {samples} samples spread by {max(ratios):.1g} of what their targets do, in {len(telling)} "
        "batches",
        where=where,
        evidence={"ratio": max(ratios), "threshold": _CONSTANT, "samples": samples},
    )
