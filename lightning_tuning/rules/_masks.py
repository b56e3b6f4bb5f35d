"""The dropouts of a step that were switched on, in whatever operation they are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from lightning_tuning.rules._ops import DROPOUTS, RECURRENT_OPS

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["Mask", "masks"]


@dataclasses.dataclass(frozen=True)
class Mask:
    """An active dropout.

    Attributes:
        op: that drops; of attention and stacked recurrent layers the operation that has the dropout inside.
        p: probability of a zero.
        inside: the dropout is a part of a larger operation.
    """

    op: Op
    p: float
    inside: bool = False


def masks(graph: Graph) -> list[Mask]:
    """Every dropout with ``p > 0`` that is in training mode, in order; ask by ``graph.answer(masks)``.

    Alpha dropout is not among them: it keeps mean and variance, and belongs to self-normalizing nets.
    """
    return [mask for op in graph.ops if (mask := _mask(op)) is not None and mask.p > 0]


def _mask(op: Op) -> Mask | None:
    arguments = op.arguments
    if op.name in DROPOUTS:
        return Mask(op, _number(arguments.get("p"))) if arguments.get("training", True) else None
    if op.name == "scaled_dot_product_attention":
        return Mask(op, _number(arguments.get("dropout_p")), inside=True)
    if op.name in RECURRENT_OPS and arguments.get("training") and _number(arguments.get("num_layers")) > 1:
        return Mask(op, _number(arguments.get("dropout")), inside=True)
    return None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
