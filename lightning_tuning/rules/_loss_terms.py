"""The terms of a loss: what is compared with what, and how, however the user wrote it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from lightning_tuning.rules._ops import SHAPE_OPS

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph, Op

__all__ = ["LossKind", "LossTerm", "loss_terms"]

LossKind = Literal["cross_entropy", "nll", "bce", "bce_logits", "mse", "l1", "other"]
Reduction = Literal["mean", "sum", "none", "unknown"]

_FUNCTIONS: dict[str, LossKind] = {
    "cross_entropy": "cross_entropy",
    "cross_entropy_loss": "cross_entropy",
    "nll_loss": "nll",
    "nll_loss_nd": "nll",
    "nll_loss2d": "nll",
    "binary_cross_entropy": "bce",
    "binary_cross_entropy_with_logits": "bce_logits",
    "mse_loss": "mse",
    "l1_loss": "l1",
    "smooth_l1_loss": "l1",
    "huber_loss": "l1",
    "kl_div": "other",
    "poisson_nll_loss": "other",
    "gaussian_nll_loss": "other",
    "multi_margin_loss": "other",
    "multilabel_margin_loss": "other",
    "multilabel_soft_margin_loss": "other",
    "soft_margin_loss": "other",
    "hinge_embedding_loss": "other",
    "cosine_embedding_loss": "other",
    "margin_ranking_loss": "other",
    "triplet_margin_loss": "other",
    "ctc_loss": "other",
}


@dataclasses.dataclass(frozen=True)
class LossTerm:
    """One comparison of a prediction with a target that a loss depends on.

    Attributes:
        kind: ``"cross_entropy"`` takes logits and classes, ``"nll"`` log-probabilities and classes, ``"bce"``
            probabilities, ``"bce_logits"`` logits, ``"mse"`` and ``"l1"`` values; ``"other"`` is none of these.
        op: the operation that compares; of a loss written by hand the one that reads the prediction.
        prediction: index of the value that comes from the model.
        target: index of the value that it is compared with; ``None`` where it is no tensor or not known.
        reduction: over the samples, as the operation or what follows it does it.
        is_weighted: classes or samples have weights of their own.
        ignore_index: class that does not count.
        label_smoothing: as the operation was told.
    """

    kind: LossKind
    op: Op
    prediction: int
    target: int | None
    reduction: Reduction
    is_weighted: bool = False
    ignore_index: int = -100
    label_smoothing: float = 0.0


def loss_terms(graph: Graph) -> list[LossTerm]:
    """Every term that reaches a loss, in order of execution; ask by ``graph.answer(loss_terms)``."""
    return [term for op in graph.find(*_FUNCTIONS, feeding=True) if (term := _of_function(graph, op)) is not None]


def _of_function(graph: Graph, op: Op) -> LossTerm | None:
    if not op.inputs:
        return None
    target = op.inputs[1] if len(op.inputs) > 1 else None
    reduction: Reduction = op.arguments.get("reduction", "mean")
    if reduction == "none":
        reduction = _later_reduction(graph, op)
    return LossTerm(
        kind=_FUNCTIONS[op.name],
        op=op,
        prediction=op.inputs[0],
        target=target,
        reduction=reduction,
        is_weighted=len(op.inputs) > 2,
        ignore_index=int(op.arguments.get("ignore_index", -100)),
        label_smoothing=float(op.arguments.get("label_smoothing", 0.0)),
    )


def _later_reduction(graph: Graph, op: Op) -> Reduction:
    """How the elements of an unreduced loss are put together further on."""
    followers = graph.children(op)
    while len(followers) == 1:
        (follower,) = followers
        if follower.name in ("mean", "nanmean"):
            return "mean"
        if follower.name in ("sum", "nansum"):
            return "sum"
        if follower.name not in SHAPE_OPS:
            return "unknown"
        followers = graph.children(follower)
    return "unknown"
