"""LT302: dropout that makes a batch norm's running variance too large for evaluation, as measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT302", "LossesBy", "shifted", "variance_shift"]

LT302 = register(
    Rule(
        code="LT302",
        name="variance-shift",
        severity=Severity.WARNING,
        kind="outcome",
        why=(
            "Dropout makes what a batch norm sees more variable in training than in evaluation, where it normalizes by "
            "the variance of training: every layer behind it gets another scale than it was trained on. Measured here "
            "with dropout on and off, and by the loss with statistics taken without dropout."
        ),
        remedy=(
            "move the dropout behind the last batch norm or set its p to 0; `nn.GroupNorm` keeps no statistics; or "
            "replace it by `x * (1 + torch.empty_like(x).uniform_(-.1, .1))` in training; for a trained net estimate "
            "the statistics again: `torch.optim.swa_utils.update_bn` with the dropouts in `.eval()`."
        ),
        source="Li et al. 2019, Understanding the Disharmony between Dropout and Batch Normalization by Variance Shift",
    )
)

_SHIFTED = 1.3
_IMPROVED = 0.05
_ERRORS = 2
_OF_FIRST_LOSS = 0.01
"""Of the run's first loss; less than that is no improvement, however small the loss has become."""


@dataclass(frozen=True)
class LossesBy:
    """The loss of the same batches without dropout, by the statistics that batch norms normalize with.

    Attributes:
        running: their own.
        dropped: estimated on a few training batches with dropout.
        whole: on the same without dropout.
    """

    running: Sequence[float]
    dropped: Sequence[float]
    whole: Sequence[float]


def shifted(ratios: Mapping[str, float]) -> float | None:
    """The median shift of variance, if it is one.

    Args:
        ratios: by the path of each batch norm behind a dropout: the variance of its input with dropout over that
            without, the median over channels.

    Example:
        >>> shifted({"bn1": 1.9, "bn2": 1.5, "bn3": 1.1}), shifted({"bn1": 1.2}), shifted({})
        (1.5, None, None)
    """
    known = [ratio for ratio in ratios.values() if math.isfinite(ratio)]
    median = statistics.median(known) if known else 0.0
    return median if median > _SHIFTED else None


def variance_shift(
    ratios: Mapping[str, float],
    losses: LossesBy,
    *,
    first_loss: float,
    dropouts: Mapping[str, tuple[str, float, str | None]],
    batches: int,
) -> Finding | None:
    """LT302 if the variance is shifted and evaluation suffers from it.

    It suffers where the loss of the held batches is lower by statistics without dropout, by more than 5 % and more than
    two standard errors of the differences: than by the running ones, and than by statistics of the same batches with
    dropout. The latter tells the shift from running statistics that lag behind or are those of other data (LT323).

    Args:
        ratios: see :func:`shifted`.
        losses: of a few batches.
        first_loss: of the run, which gives the scale.
        dropouts: by the path of each batch norm: the path, p and source line of a dropout that feeds it.
        batches: of training seen so far.

    Example:
        >>> losses = LossesBy(running=[1.0, 1.2], dropped=[1.0, 1.1], whole=[0.8, 0.9])
        >>> feeding = {"bn": ("drop", 0.5, "net.py:7")}
        >>> variance_shift({"bn": 1.9}, losses, first_loss=2.3, dropouts=feeding, batches=400).message
        'dropout (p=0.5) makes the input of `bn` 1.9 x as variable in training as in evaluation (> 1.3, after 400 \
batches); by statistics without dropout the loss is 0.85 instead of 1.1'
        >>> variance_shift({"bn": 1.1}, losses, first_loss=2.3, dropouts=feeding, batches=400)
    """
    median = shifted(ratios)
    if median is None or not losses.whole or not math.isfinite(first_loss):
        return None
    running, dropped, whole = (statistics.fmean(group) for group in (losses.running, losses.dropped, losses.whole))
    if not all(map(math.isfinite, (running, dropped, whole))):
        return None
    least = max(_IMPROVED * abs(running), _OF_FIRST_LOSS * abs(first_loss))
    if not all(_falls(group, losses.whole, by=least) for group in (losses.running, losses.dropped)):
        return None
    worst = max((path for path in ratios if path in dropouts), key=lambda path: ratios[path])
    where, p, line = dropouts[worst]
    also = f", median of {len(ratios)} batch norms {median:.3g}" if len(ratios) > 1 else ""
    return LT302.finding(
        f"dropout (p={p:g}) makes the input of `{worst}` {ratios[worst]:.3g} x as variable in training as in "
        f"evaluation (> {_SHIFTED:g}{also}, after {batches} batches); by statistics without dropout the loss is "
        f"{whole:.3g} instead of {running:.3g}",
        where=where,
        source_line=line,
        evidence={
            "ratio": median,
            "largest_ratio": ratios[worst],
            "threshold": _SHIFTED,
            "batch_norm": worst,
            "batch_norms": len(ratios),
            "p": p,
            "loss": running,
            "loss_with_dropout_statistics": dropped,
            "loss_without_dropout_statistics": whole,
            "batches": batches,
        },
    )


def _falls(before: Sequence[float], after: Sequence[float], *, by: float) -> bool:
    """Whether the mean is lower afterwards, by more than ``by`` and more than chance."""
    falls = [one - other for one, other in zip(before, after, strict=True)]
    error = statistics.stdev(falls) / math.sqrt(len(falls)) if len(falls) > 1 else 0.0
    return statistics.fmean(falls) > max(by, _ERRORS * error)
