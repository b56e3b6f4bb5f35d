"""The learning rate range test: which rates to try, and what the losses at them say.

Of numbers that are on the host already; no tensor of a model comes here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LRSuggestion", "has_diverged", "suggest_lr", "sweep_rates"]

_LEAST = 8  # points: with fewer a fall cannot be told from noise
_BANDWIDTH = 0.04  # of the sweep, on the log axis: a third of a decade of eight
_START = 0.2  # of the points, for the level from which the loss falls
_SIGNIFICANT = 4.0  # deviations of the measured fall; of a flat loss the lowest point lies some 2 below by chance
_ROUNDING = 1e-6  # of the loss


class LRSuggestion(NamedTuple):
    """What a range test suggests; rates are ``None`` where ``reason`` says why there are none.

    Attributes:
        suggested: the median of the three rules below, on the log axis.
        low: least rate at which the loss falls: a tenth of the fall is behind it.
        high: largest one: nine tenths are.
        valley: the middle of the fall, on the log axis.
        steepest: where the loss falls fastest, per decade of the rate.
        minimum_over_ten: a tenth of the rate of the lowest loss.
        reason: why nothing can be suggested.
    """

    suggested: float | None = None
    low: float | None = None
    high: float | None = None
    valley: float | None = None
    steepest: float | None = None
    minimum_over_ten: float | None = None
    reason: str | None = None


def sweep_rates(min_lr: float, max_lr: float, steps: int) -> list[float]:
    """``steps`` rates from ``min_lr`` to ``max_lr``, each the same factor above the one before.

    Raises:
        ValueError: unless 0 < ``min_lr`` < ``max_lr`` and there are at least 8 steps.

    Example:
        >>> [f"{rate:g}" for rate in sweep_rates(1e-7, 1.0, 8)]
        ['1e-07', '1e-06', '1e-05', '0.0001', '0.001', '0.01', '0.1', '1']
    """
    if not (math.isfinite(min_lr) and min_lr > 0):
        raise ValueError(f"`min_lr` must be a finite number above 0, got {min_lr!r}.")
    if not (math.isfinite(max_lr) and max_lr > min_lr):
        raise ValueError(f"`max_lr` must be finite and above `min_lr` ({min_lr:g}), got {max_lr!r}.")
    if type(steps) is not int or steps < _LEAST:
        raise ValueError(f"`steps` must be an integer of at least {_LEAST}, got {steps!r}.")
    low, high = math.log(min_lr), math.log(max_lr)
    inner = [math.exp(low + (high - low) * step / (steps - 1)) for step in range(1, steps - 1)]
    return [min_lr, *inner, max_lr]


def has_diverged(losses: Sequence[float], factor: float = 4.0) -> bool:
    """Whether a sweep may end: the last loss is not finite, or the last ones are far above the lowest.

    Far is ``factor`` times the lowest, as in Lightning; for losses near zero or below it, ``factor - 1`` times what was
    gained. Medians of three and five are compared, so that one bad batch ends nothing.

    Args:
        losses: of the steps so far.
        factor: above 1.

    Example:
        >>> has_diverged([2.3, 2.2, 2.0, 1.8, 1.5, 2.0, 2.1, 2.2])
        False
        >>> has_diverged([2.3, 2.2, 2.0, 1.8, 1.5, 20.0, 21.0, 22.0])
        True
    """
    if losses and not math.isfinite(losses[-1]):
        return True
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(finite) < _LEAST:
        return False
    best, first = min(_running_median(finite)), statistics.median(finite[:5])
    return statistics.median(finite[-3:]) > best + (factor - 1) * max(abs(best), abs(first - best))


def suggest_lr(rates: Sequence[float], losses: Sequence[float]) -> LRSuggestion:
    """A learning rate, and the interval in which it may lie, from the losses of an exponential sweep.

    The losses are smoothed along the logarithm of the rate: running medians against single bad batches, then local
    straight lines, which give the slope per decade too. Smith's rule wants the slope per decade: against the rate
    itself, every difference between two noisy losses at 1e-7 is the steepest of all. What goes beyond the height of the
    fall is cut off, so that a loss of 1e9 at the end leaves the fall as it is. Multiplying the losses changes nothing.

    A fall, from the median of the first fifth to the lowest point after it, counts if it is more than noise: four times
    the deviation that it has by chance, as the differences between neighbours tell.

    Args:
        rates: learning rates of the steps, rising.
        losses: of the same steps; NaN and infinity in between are passed over, at the end they are divergence.

    Returns:
        With ``low <= suggested <= high``, all below the rate of the lowest loss, or a ``reason``.

    Raises:
        ValueError: if there are not as many losses as rates, or the rates are not finite, above 0 and rising.

    Example:
        >>> rates = sweep_rates(1e-6, 1.0, 60)
        >>> losses = [2.3 - 1.5 / (1 + 1e-2 / rate) + (rate / 0.3) ** 4 for rate in rates]
        >>> found = suggest_lr(rates, losses)
        >>> f"{found.suggested:.2g}, from {found.low:.2g} to {found.high:.2g}"
        '0.0076, from 0.0007 to 0.038'
        >>> suggest_lr(rates, [2.3] * 60).reason
        'the loss does not fall at any rate by more than its noise'

    Source:
        Smith 2017, Cyclical Learning Rates for Training Neural Networks, section 3.3; fastai's rules ``valley``,
        ``steep`` and ``minimum``.
    """
    _check(rates, losses)
    finite = [place for place, loss in enumerate(losses) if math.isfinite(loss)]
    if not finite:
        return LRSuggestion(reason="no loss was finite" if losses else "no loss was measured")
    if len(finite) < _LEAST:
        return LRSuggestion(reason=f"too few losses were finite: {len(finite)} < {_LEAST}")
    breaks = [rates[place] for place in range(finite[-1] + 1, len(losses))]
    axis = [math.log(rates[place]) for place in finite]
    values = _running_median([losses[place] for place in finite])
    first = max(3, round(_START * len(values)))
    level, noise = statistics.median(values[:first]), _noise([losses[place] for place in finite])
    cap = level + max(level - min(values), noise, _ROUNDING * abs(level))
    curve = torch.tensor([min(value, cap) for value in values] + [cap] * len(breaks), dtype=torch.float64)
    x = torch.tensor(axis + [math.log(rate) for rate in breaks], dtype=torch.float64)
    smooth, slope, share = _local_lines(x, curve)

    lowest = int(smooth.argmin())
    fall = level - float(smooth[lowest])
    deviation = noise * math.hypot(float(share[lowest]), 1.25 / math.sqrt(first))  # 1.25: of a median
    if lowest < first or fall <= max(_SIGNIFICANT * deviation, _ROUNDING * abs(level)):
        end = statistics.median([losses[place] for place in finite[-3:]])
        if breaks or end - level > max(2 * _SIGNIFICANT * deviation, _ROUNDING * abs(level)):
            return LRSuggestion(reason="the loss does not fall at any rate before it diverges")
        return LRSuggestion(reason="the loss does not fall at any rate by more than its noise")

    before = range(lowest + 1)
    start = max((i for i in before if smooth[i] >= level - 0.1 * fall), default=int(smooth[: lowest + 1].argmax()))
    end = min(i for i in before if i >= start and smooth[i] <= level - 0.9 * fall)
    low, high = math.exp(float(x[start])), math.exp(float(x[end]))
    rules = (
        math.sqrt(low * high),
        math.exp(float(x[start + int(slope[start : lowest + 1].argmin())])),
        math.exp(float(x[lowest])) / 10,
    )
    return LRSuggestion(min(max(statistics.median(rules), low), high), low, high, *rules)


def _check(rates: Sequence[float], losses: Sequence[float]) -> None:
    if len(rates) != len(losses):
        raise ValueError(f"`losses` must be as many as `rates` ({len(rates)}), got {len(losses)}.")
    for before, rate in zip([0.0, *rates], rates, strict=False):
        if not (math.isfinite(rate) and rate > before):
            raise ValueError(f"`rates` must be finite, above 0 and rising, got {rate!r} after {before!r}.")


def _running_median(values: Sequence[float], reach: int = 2) -> list[float]:
    """Medians of each value and its neighbours, as many to the left as to the right."""
    last = len(values) - 1
    reaches = (min(reach, place, last - place) for place in range(len(values)))
    return [statistics.median(values[place - r : place + r + 1]) for place, r in enumerate(reaches)]


def _noise(values: Sequence[float]) -> float:
    """Standard deviation of one loss about the curve, from the first half, where it does not run away.

    Of second differences, in which a slope is not seen: the variance of ``a - 2 b + c`` is six times that of each.
    """
    half = values[: max(_LEAST, len(values) // 2)]
    bends = [abs(a - 2 * b + c) for a, b, c in zip(half, half[1:], half[2:], strict=False)]
    return 1.4826 * statistics.median(bends) / math.sqrt(6)


def _local_lines(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value and slope of a straight line fitted about each point, and the share of the noise that is left in the value.

    Weights are Gaussian, on ``x``, no narrower than one and a half points.
    """
    width = max(_BANDWIDTH * float(x[-1] - x[0]), 1.5 * float(x.diff().median()))
    offset = x[None, :] - x[:, None]  # [at, of]
    weight = torch.exp(-0.5 * (offset / width).square())
    s0, s1, s2 = weight.sum(1), (weight * offset).sum(1), (weight * offset.square()).sum(1)
    determinant = s0 * s2 - s1.square()
    to_value = weight * (s2[:, None] - s1[:, None] * offset) / determinant[:, None]
    to_slope = weight * (s0[:, None] * offset - s1[:, None]) / determinant[:, None]
    return to_value @ y, to_slope @ y, to_value.square().sum(1).sqrt()
