"""The output bias of a net that knows how often each answer is right, and nothing else."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["log_odds_prior", "log_prior"]


def log_prior(counts: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Logits whose softmax is the share of each class: the best constant answer under cross entropy.

    Half a sample is added to each class (Jeffreys' prior), so that one that was not seen gets a finite logit.

    Args:
        counts: ``(K,)``, how often each class was seen.
        label_smoothing: of the loss; the best answer is then that much nearer to uniform. Default 0.

    Returns:
        ``(K,)`` in float64, sums to 1 in ``exp``.

    Raises:
        ValueError: for counts that are no vector of at least one class, or a smoothing outside of [0, 1].

    Example:
        >>> log_prior(torch.tensor([89.5, 9.5])).exp()
        tensor([0.9000, 0.1000], dtype=torch.float64)
    """
    if counts.dim() != 1 or len(counts) == 0:
        raise ValueError(f"`counts` must be a vector, got the shape {tuple(counts.shape)}.")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"`label_smoothing` must be between 0 and 1, got {label_smoothing}.")
    shares = counts.double() + 0.5
    shares = shares / shares.sum()
    return ((1 - label_smoothing) * shares + label_smoothing / len(counts)).log()


def log_odds_prior(positives: Tensor, total: float) -> Tensor:
    """Logits whose sigmoid is the share of positives: the best constant answer under binary cross entropy.

    Half a sample is added to each side, so that an output without a positive gets a finite logit.

    Args:
        positives: sum of the targets, for each output.
        total: number of targets of each output.

    Raises:
        ValueError: for a negative ``total``, or one that is not finite.

    Example:
        >>> torch.sigmoid(log_odds_prior(torch.tensor([0.5, 49.5]), 99))
        tensor([0.0100, 0.5000], dtype=torch.float64)
    """
    if not (math.isfinite(total) and total >= 0):
        raise ValueError(f"`total` must be a number of targets, got {total}.")
    share = (positives.double() + 0.5) / (total + 1)
    return torch.log(share) - torch.log1p(-share)
