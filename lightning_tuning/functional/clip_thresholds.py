"""From what gradient norm on to clip, by the norms of the run itself; nothing here reads a value back to the host."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["percentile_threshold", "push_norm_", "updated_norm_statistics", "zscore_threshold"]


def push_norm_(history: Tensor, count: Tensor, norm: Tensor) -> None:
    """Write ``norm`` over the oldest entry of a ring buffer; one that is not finite and above 0 is left out.

    Which it is the device knows alone: nothing is read back.

    Args:
        history: vector of the last norms, filled with NaN to begin with; written in place.
        count: 0-d int64, how many were ever pushed; the next goes to ``count % len(history)``. Written in place.
        norm: 0-d.

    Example:
        >>> history, count = torch.full((3,), float("nan")), torch.tensor(0)
        >>> for norm in (1.0, float("inf"), 2.0, 3.0, 4.0):
        ...     push_norm_(history, count, torch.tensor(norm))
        >>> history, count
        (tensor([4., 2., 3.]), tensor(4))
    """
    is_known = norm.isfinite() & (norm > 0)
    is_place = torch.arange(len(history), device=history.device) == count % len(history)
    history.masked_fill_(is_place & is_known, norm.to(history.dtype))
    count.add_(is_known)


def percentile_threshold(history: Tensor, percentile: float = 90.0) -> Tensor:
    """The norm at which the largest ``100 - percentile`` percent of a history would have been clipped.

    Args:
        history: vector of norms; NaN entries (not yet filled) are left out.
        percentile: 0 to 100, linear between two norms, as ``numpy.percentile``. Default 90: one update in ten is
            clipped. (AutoClip found 10 best for its separation nets; that clips nine in ten, and makes of SGD a descent
            of nearly constant step length.)

    Returns:
        0-d tensor; NaN for an empty history.

    Example:
        >>> percentile_threshold(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, float("nan")]), 50)
        tensor(3.)

    Source: Seetharaman et al. 2020, AutoClip.
    """
    return history.nanquantile(percentile / 100)


def updated_norm_statistics(
    mean: Tensor, variance: Tensor, count: Tensor, norm: Tensor, *, warmup: int = 25, decay: float = 0.97
) -> tuple[Tensor, Tensor, Tensor]:
    """Exponential moving mean and variance of the norms, with one more norm in them.

    The first ``warmup`` norms weigh the same (their plain mean and population variance); each later one weighs
    ``1 - decay``. A norm that is not finite and above 0 changes nothing.

    Args:
        mean: 0-d, anything to begin with.
        variance: 0-d, likewise.
        count: 0-d int64, how many are in them: 0 to begin with.
        norm: 0-d.
        warmup: norms; ZClip's 25 by default.
        decay: ZClip's 0.97 by default: a memory of some 33 steps.

    Returns:
        mean, variance, count.

    Example:
        >>> zero = torch.tensor(0.0)
        >>> updated_norm_statistics(zero, zero, torch.tensor(0), torch.tensor(5.0))
        (tensor(5.), tensor(0.), tensor(1))

    Source: Kumar et al. 2025, ZClip, arXiv 2504.02507.
    """
    is_known = norm.isfinite() & (norm > 0)
    weight = torch.where(count < warmup, 1 / (count + 1), 1 - decay)
    deviation = torch.where(is_known, norm, mean) - mean
    updated = mean + weight * deviation, (1 - weight) * (variance + weight * deviation.square())
    return updated[0], torch.where(is_known, updated[1], variance), count + is_known


def zscore_threshold(mean: Tensor, variance: Tensor, z: float = 2.5) -> Tensor:
    """The norm that lies ``z`` standard deviations above the mean.

    ZClip goes on from here and shrinks what is above the more the farther out it was; here it is clipped to the
    threshold, so that a larger gradient never makes a smaller update.

    Example:
        >>> zscore_threshold(torch.tensor(1.0), torch.tensor(0.04), z=2.5)
        tensor(1.5000)

    Source: Kumar et al. 2025, ZClip, arXiv 2504.02507.
    """
    return mean + z * variance.sqrt()
