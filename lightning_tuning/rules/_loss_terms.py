"""The terms of a loss: what is compared with what, and how, however the user wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.rules._loss_by_hand import terms_by_hand
from lightning_tuning.rules._loss_reduction import later_reduction
from lightning_tuning.rules._loss_term import LOSS_FUNCTIONS, LossKind, LossTerm, Reduction

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LossKind", "LossTerm", "Reduction", "loss_terms"]


def loss_terms(graph: Graph) -> list[LossTerm]:
    """Every term that reaches a loss, in order of execution; ask by ``graph.answer(loss_terms)``.

    Losses that are one operation (``F.cross_entropy``), those written out (``-log_softmax(x)[range(n), y].mean()``,
    ``-(y * log(p)).sum(1).mean()``, ``(a - b).square().mean()``), and sums of several. A summand that is none that is
    known here, and no mere function of the weights, is a term of kind ``"other"``.
    """
    functions = [_of_function(graph, op) for op in graph.find(*LOSS_FUNCTIONS, feeding=True) if op.inputs]
    return sorted([*functions, *terms_by_hand(graph)], key=lambda term: term.op.index)


def _of_function(graph: Graph, op: Op) -> LossTerm:
    reduction = {"batchmean": "mean"}.get(op.arguments.get("reduction", "mean"), op.arguments.get("reduction", "mean"))
    verdict, is_weighted = later_reduction(graph, op.outputs[0], reduction)
    return LossTerm(
        kind=LOSS_FUNCTIONS[op.name],
        op=op,
        prediction=op.inputs[0],
        target=op.inputs[1] if len(op.inputs) > 1 else None,
        reduction=verdict,
        is_weighted=len(op.inputs) > 2 or is_weighted,
        ignore_index=int(op.arguments.get("ignore_index", -100)),
        label_smoothing=float(op.arguments.get("label_smoothing", 0.0)),
    )
