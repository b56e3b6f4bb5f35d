"""LT103: an input feature or channel that never changes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._leaves import batch_leaf
from lightning_tuning.rules._ops import RECURRENT_OPS, main_input, weight_layers

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["ENOUGH_SAMPLES", "LT103", "constant_features", "feature_axes"]

LT103 = register(
    Rule(
        code="LT103",
        name="constant-feature",
        severity=Severity.INFO,
        kind="advice",
        why=(
            "A feature that has the same value in every sample tells the samples apart as little as a bias does: a "
            "column that was filled instead of joined, an opaque alpha channel, a sensor that was off."
        ),
        remedy="leave it out (`x[:, keep]`, `image.convert('RGB')`), or mend the column.",
        source="TheDeepChecker (Ben Braiek and Khomh 2022): features of zero variance",
    )
)

ENOUGH_SAMPLES = 64
_MOST_FEATURES = 4096
_SHOWN = 5


def feature_axes(graph: Graph) -> dict[str, int]:
    """The floating tensors of the batch that a weight layer reads as they came, and their axis of features.

    That is the last one of a linear or recurrent layer's input, and the channels (the second) of a convolution's.
    """
    axes: dict[str, int] = {}
    for op in graph.answer(weight_layers):
        value = main_input(graph, op)
        leaf = None if value is None else batch_leaf(graph, value)
        if value is None or leaf is None or leaf.name is None or not leaf.dtype.is_floating_point:
            continue
        axis = 1 if op.name.startswith("conv") else len(leaf.shape) - 1
        known = op.name.startswith("conv") or op.name == "linear" or op.name in RECURRENT_OPS
        as_it_came = leaf.shape == graph.values[value].shape and len(leaf.shape) > axis > 0
        if known and as_it_came and 1 < leaf.shape[axis] <= _MOST_FEATURES:
            axes.setdefault(leaf.name, axis)
    return axes


def constant_features(
    name: str, lows: Sequence[float], highs: Sequence[float], samples: int, *, channels: bool
) -> Finding | None:
    """LT103 if features of one input never change, other than by being padding or one-hot.

    A value that several columns have in common, or the smallest or largest one that there is (the border of an image, a
    category that did not occur, a column of ones for the bias), is padding. Of channels (whole images) only 0 is.

    Args:
        name: key path of the tensor.
        lows: smallest value of each feature over the first batches.
        highs: largest.
        samples: how many were seen.
        channels: the features are channels of maps.

    Example:
        >>> constant_features("batch[0]", [-1, 3.5, -2], [2, 3.5, 4], 128, channels=False).message
        'feature 1 of 3 is 3.5 in all 128 samples'
    """
    ends = (*lows, *highs)
    if samples < ENOUGH_SAMPLES or len(lows) < 2 or not all(map(math.isfinite, ends)):
        return None
    constant = {index: low for index, (low, high) in enumerate(zip(lows, highs, strict=True)) if low == high}
    if not constant or len(constant) == len(lows):
        return None  # none, or an input that is not used as one (a dummy)
    shared = Counter(constant.values())
    padding = {0.0} if channels else {0.0, 1.0, -1.0, min(lows), max(highs)}
    found = [index for index, value in constant.items() if value not in padding and (channels or shared[value] == 1)]
    if not found:
        return None
    one = len(found) == 1
    word = "channel" if channels else "feature"
    shown = ", ".join(map(str, found[:_SHOWN])) + (", ..." if len(found) > _SHOWN else "")
    what = f"{word} {shown} of {len(lows)} is {constant[found[0]]:.4g}" if one else f"{word}s {shown} are constant"
    return LT103.finding(
        f"{what} in all {samples} samples",
        where=name,
        evidence={"feature": found[0], "value": constant[found[0]], "constant": len(found), "samples": samples},
    )
