"""The kinds of numbers by layer, and what to look for in each."""

from __future__ import annotations

import dataclasses
from typing import Literal

__all__ = ["MAPS", "Kind"]


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a kind of sample is shown.

    Attributes:
        kind: of sample.
        title: of the map.
        unit: of its numbers, for axis and pointer.
        caption: what to look for.
        missing: why there may be none.
        ramp: ``"one-way"`` from little to much; ``"two-way"`` where the middle is best.
        domain: ends of the scale (three of a two-way one); ``None``: those of the values.
        log: whether the scale is logarithmic.
    """

    kind: str
    title: str
    unit: str
    caption: str
    missing: str
    ramp: Literal["one-way", "two-way"] = "one-way"
    domain: tuple[float, ...] | None = None
    log: bool = False


MAPS = (
    Kind(
        "update_ratio",
        "Update ratio",
        "size of an update over that of its weight",
        "Usual is 1e-3, the neutral middle. Blue rows hardly move; red ones are rewritten within some hundred steps.",
        "No update was measured (UpdateMonitor does).",
        "two-way",
        (1e-5, 1e-3, 1e-1),
        log=True,
    ),
    Kind(
        "grad_norm",
        "Gradient norm by parameter",
        "L2 norm of the gradient",
        "Look for rows that stay at the low end (no gradient arrives) and for columns that stand out (a leap).",
        "No gradient was measured by parameter (GradientVanishingMonitor does).",
        log=True,
    ),
    Kind(
        "dead_units",
        "Dead units",
        "share of units that are 0 for every sample",
        "A row that fills up has lost units for good; one that was never empty began so.",
        "No activation was looked at (ActivationMonitor does), or no layer has units that can die.",
        domain=(0, 1),
    ),
    Kind(
        "saturated_units",
        "Saturated units",
        "share of values in the flat ends of tanh or sigmoid",
        "What lies before a full row learns slowly, for hardly any gradient passes it.",
        "No saturating activation was looked at.",
        domain=(0, 1),
    ),
    Kind(
        "attention_entropy",
        "Attention entropy",
        "entropy of attention, as a share of the greatest possible",
        "0 is attention to one key, 1 to all alike; a layer that goes to either end chooses nothing any more.",
        "No attention was looked at.",
        domain=(0, 1),
    ),
    Kind(
        "variance_shift",
        "Batch norm shift",
        "variance in training over that in evaluation",
        "1, the neutral middle, is right; above it dropout makes a batch norm keep a variance that is too large.",
        "No batch norm behind a dropout was looked at (VarianceShiftMonitor does).",
        "two-way",
        (0.5, 1, 2),
        log=True,
    ),
)
