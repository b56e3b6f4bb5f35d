"""One term of a loss: a prediction that is compared with a target."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Op

__all__ = ["LOSS_FUNCTIONS", "LossKind", "LossTerm", "Reduction"]

LossKind = Literal["cross_entropy", "nll", "bce", "bce_logits", "mse", "l1", "other"]
Reduction = Literal["mean", "sum", "none", "unknown"]

LOSS_FUNCTIONS: dict[str, LossKind] = {
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
    "triplet_margin_with_distance_loss": "other",
    "ctc_loss": "other",
}
"""The operations that are a loss by themselves."""


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
        by_hand: written out in operations, and not a function of torch's.
    """

    kind: LossKind
    op: Op
    prediction: int
    target: int | None
    reduction: Reduction
    is_weighted: bool = False
    ignore_index: int = -100
    label_smoothing: float = 0.0
    by_hand: bool = False
