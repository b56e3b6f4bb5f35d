"""LT102: what goes into the first weight layer is far from zero mean and unit scale."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._leaves import ancestors
from lightning_tuning.rules._ops import ELEMENTWISE_OPS, MASKS, SHAPE_OPS, main_input, place, weight_layers

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op, Value

__all__ = ["LT102", "InputStatistics", "entrances", "is_loss_off", "unscaled_input"]

LT102 = register(
    Rule(
        code="LT102",
        name="unscaled-input",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "Every initialization and every usual learning rate reckon with inputs of mean 0 and standard deviation 1: "
            "images of 0 to 255 begin at a loss of 15 to 69 times ln K, inputs far from 0 make all gradients of a unit "
            "point the same way, and inputs that were normalized twice hardly move anything."
        ),
        remedy="normalize with statistics of the training set, `x = (x - mean) / std`, or images with `x / 255`.",
        source="LeCun et al. 1998, Efficient BackProp, section 4.3; measured: 0-255 images against [0, 1]",
    )
)

_RAW = ELEMENTWISE_OPS | SHAPE_OPS | MASKS
_FAR = 3.0
_LARGE = 20.0
_NARROW = 1e-2
_OFF = 2.0
_FEWEST = 64
"""Values: of fewer, mean and standard deviation say nothing."""


@dataclasses.dataclass(frozen=True)
class InputStatistics:
    """Of one floating input, over everything in the first batch."""

    mean: float
    std: float
    low: float
    high: float
    count: int

    @property
    def fault(self) -> str | None:
        """What is wrong with its scale, if anything.

        Anything within [-1, 1] that varies is legal whatever its mean, and so is what looks like decibels.

        Example:
            >>> InputStatistics(mean=120.0, std=80.0, low=0.0, high=255.0, count=1000).fault
            'largest value 255 > 20'
            >>> InputStatistics(mean=0.9, std=0.1, low=0.0, high=1.0, count=1000).fault
        """
        if self.count < _FEWEST or not all(map(math.isfinite, (self.mean, self.std, self.low, self.high))):
            return None
        if self.low == self.high:
            return None  # constant: nothing to scale
        largest = max(abs(self.low), abs(self.high))
        if self.std < _NARROW:
            return f"std {self.std:.2g} < {_NARROW:g} (normalized twice?)"
        if largest <= 1:
            return None
        if largest > _LARGE:
            return f"largest value {largest:.4g} > {_LARGE:g}"
        if abs(self.mean) > _FAR * self.std:
            return f"mean {self.mean:.3g} is {abs(self.mean) / self.std:.1f} > {_FAR:g} standard deviations from 0"
        return None


def entrances(graph: Graph) -> list[Op]:
    """The weight layers that read the batch's floating tensors (or images of bytes) before anything has learned.

    Only elementwise operations and changes of shape lie before them: behind a normalization the scale of the input
    does not matter, and whole numbers (ids, counts) are not meant to be scaled.
    """
    found = []
    for op in graph.answer(weight_layers):
        value = main_input(graph, op)
        if value is not None and graph.reaches_loss(op) and _is_raw(graph, op, value):
            found.append(op)
    return found


def _is_raw(graph: Graph, op: Op, value: int) -> bool:
    if not graph.values[value].dtype.is_floating_point:
        return False
    found, waiting = {value}, [value]
    leaves = []
    while waiting:  # as `ancestors`, but most layers are told after a step or two, which keeps the whole linear
        known = graph.values[waiting.pop()]
        if known.producer is not None:
            maker = graph.ops[known.producer]
            if maker.name not in _RAW:
                return False
            fresh = [index for index in maker.inputs if index not in found]
            found.update(fresh)
            waiting += fresh
        if known.kind == "batch":
            leaves.append(known)
    return bool(leaves) and all(_is_scalable(op, leaf) for leaf in leaves)


def _is_scalable(op: Op, leaf: Value) -> bool:
    return leaf.dtype.is_floating_point or (leaf.dtype == torch.uint8 and op.name.startswith("conv"))


def unscaled_input(graph: Graph, op: Op, statistics: InputStatistics) -> Finding | None:
    """LT102 if what ``op`` reads is not of unit scale; see :attr:`InputStatistics.fault`.

    Args:
        graph: of the step.
        op: one of its :func:`entrances`.
        statistics: of what it reads.
    """
    fault = statistics.fault
    value = main_input(graph, op)
    if fault is None or value is None or _is_decibels(statistics, graph.values[value]):
        return None
    leaves = [graph.values[i].name for i in sorted(ancestors(graph, {value})) if graph.values[i].kind == "batch"]
    return LT102.finding(
        f"input {', '.join(filter(None, leaves))} of {place(op)}: {fault}; mean {statistics.mean:.3g}, "
        f"std {statistics.std:.3g}",
        where=op.module,
        source_line=op.source_line,
        evidence=dataclasses.asdict(statistics),
    )


def _is_decibels(statistics: InputStatistics, value: Value) -> bool:
    """A spectrogram in decibels or natural logarithms: time and frequency, mostly negative, not below -120."""
    is_map = len(value.shape) == 3 or (len(value.shape) == 4 and value.shape[1] <= 2)
    return is_map and -120 <= statistics.low < -1 and statistics.mean < 0 and statistics.high <= 40


def is_loss_off(loss: float, expected: float) -> bool:
    """Whether a first loss is further above its expectation than a usual initialization can make it.

    Example:
        >>> is_loss_off(35.0, 2.303), is_loss_off(2.5, 2.303)
        (True, False)
    """
    return math.isfinite(expected) and expected > 0 and not loss <= _OFF * expected
