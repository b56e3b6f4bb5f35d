"""A term of the loss as its tensors give it, whatever else is added to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lightning_tuning.checks._preflight_step import Seen

__all__ = ["term_accuracy", "term_value"]


def term_value(seen: Seen) -> float | None:
    """The term by itself; ``None`` where it cannot be computed, or its lowest value is not 0. A device read."""
    term, prediction, target = seen.term, seen.prediction.detach().float(), seen.target
    if target is None or term.label_smoothing > 0 or term.is_weighted:
        return None
    reduction = "sum" if term.reduction == "sum" else "mean"
    is_index = not target.is_floating_point() and target.dtype != torch.bool
    hard = is_index or bool(((target == 0) | (target == 1)).all())
    try:
        if term.kind == "cross_entropy" and hard:
            aim = target if is_index else target.float()
            return float(F.cross_entropy(prediction, aim, reduction=reduction, ignore_index=term.ignore_index))
        if term.kind == "nll" and is_index:
            return float(F.nll_loss(prediction, target, reduction=reduction, ignore_index=term.ignore_index))
        if term.kind == "bce_logits" and hard:
            return float(F.binary_cross_entropy_with_logits(prediction, target.float(), reduction=reduction))
        if term.kind == "bce" and hard:
            return float(F.binary_cross_entropy(prediction, target.float(), reduction=reduction))
        if term.kind == "mse" and prediction.shape == target.shape:
            return float(F.mse_loss(prediction, target.float(), reduction=reduction))
        if term.kind == "l1" and prediction.shape == target.shape:
            return float(F.l1_loss(prediction, target.float(), reduction=reduction))
    except (RuntimeError, ValueError, IndexError):  # a loss by hand lays its tensors out as it likes
        return None
    return None


def term_accuracy(seen: Seen) -> float | None:
    """The share of right answers, where the term knows right and wrong. A device read."""
    term, prediction, target = seen.term, seen.prediction, seen.target
    if target is None:
        return None
    if term.kind in ("cross_entropy", "nll") and prediction.dim() > 1:
        said = prediction.argmax(1)
        if said.shape != target.shape or target.is_floating_point():
            return None
        counts = target != term.ignore_index
        return float((said == target)[counts].float().mean()) if bool(counts.any()) else None
    if term.kind in ("bce", "bce_logits") and prediction.shape == target.shape:
        return float(((prediction > (0 if term.kind == "bce_logits" else 0.5)) == (target > 0.5)).float().mean())
    return None
