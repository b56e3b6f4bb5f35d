"""LT207: the output's bias does not know how rare its classes are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._loss_terms import LossKind
from lightning_tuning.rules._weight_facts import WeightFacts

__all__ = ["LT207", "Targets", "output_bias", "targets_in"]

LT207 = register(
    Rule(
        code="LT207",
        name="output-bias",
        severity=Severity.INFO,
        kind="advice",
        why=(
            "With a prior of 1:10 the first steps are spent on learning a constant that is known beforehand, and rare "
            "classes drown in the meantime; a bias of log(prior) starts there."
        ),
        remedy="`nn.init.constant_(head.bias, value)` with the value above, or `head.bias.data = log(class_shares)`.",
        source="Karpathy 2019, A Recipe for Training Neural Networks, 'init well'; Lin et al. 2017, Focal Loss, 4.1",
    )
)

_RATIO = 10.0
_PER_CLASS = 10
"""Samples for each class below which a batch says nothing of the prior."""
_BINARY = 64
_FAR = 3.0


@dataclasses.dataclass(frozen=True)
class Targets:
    """The targets of one batch in numbers.

    Attributes:
        size: how many there are.
        mean: of their values (of class indices: meaningless).
        variance: likewise.
        counts: of each class, where they are class indices.
    """

    size: int
    mean: float
    variance: float
    counts: tuple[int, ...] = ()

    @property
    def entropy(self) -> float:
        """Of the classes, in nats; 0 where they are not known."""
        total = sum(self.counts)
        return -sum(n / total * math.log(n / total) for n in self.counts if n)


def targets_in(values: Tensor, *, classes: int | None = None, ignore_index: int = -100) -> Targets | None:
    """What ``values`` are; ``None`` of an empty tensor, or numbers that are not finite. A device sync.

    Args:
        values: the targets of a batch.
        classes: K, if they are class indices.
        ignore_index: of class indices.

    Example:
        >>> targets_in(torch.tensor([0, 2, 2, -100]), classes=3).counts
        (1, 0, 2)
    """
    if values.numel() == 0 or values.is_complex():
        return None
    if classes is not None and not values.is_floating_point():
        kept = values[(values != ignore_index) & (values >= 0) & (values < classes)].long()
        counts = tuple(torch.bincount(kept, minlength=classes).tolist())
        return Targets(kept.numel(), 0.0, 0.0, counts) if kept.numel() else None
    real = values.detach().cpu().double()
    mean, variance = float(real.mean()), float(real.var(correction=0))
    return Targets(values.numel(), mean, variance) if math.isfinite(mean) and math.isfinite(variance) else None


def output_bias(
    kind: LossKind, targets: Targets, bias: WeightFacts, fan_in: int, *, name: str, where: str = ""
) -> Finding | None:
    """LT207 if the bias of the output is as torch made it, or 0, while the targets are far from even.

    Args:
        kind: of the loss.
        targets: of the first batch.
        bias: of the output layer.
        fan_in: of its weight, which bounds the biases that torch draws.
        name: dotted name of the bias.
        where: module path of the output layer.
    """
    if not bias.rms <= 1 / math.sqrt(max(fan_in, 1)):
        return None
    if kind in ("cross_entropy", "nll"):
        found = _uneven(targets.counts)
    elif kind in ("bce", "bce_logits"):
        found = _rare(targets)
    elif kind == "mse":
        found = _distant(targets)
    else:
        found = None
    if found is None:
        return None
    message, value = found
    return LT207.finding(
        f"`{name}` starts at {bias.mean:.2g}, but {message}",
        where=where,
        evidence={"bias": bias.mean, "suggested": value, "targets": targets.size},
    )


def _uneven(counts: Sequence[int]) -> tuple[str, float] | None:
    total, classes = sum(counts), len(counts)
    if classes < 2 or total < _PER_CLASS * classes or sum(n > 0 for n in counts) < 2:
        return None
    most, least = max(counts), min(counts)
    if most < _RATIO * max(least, 1):
        return None
    low, high = (math.log(max(n, 0.5) / total) for n in (least, most))
    message = (
        f"class {counts.index(most)} has {most} of {total} targets in the first batch, class {counts.index(least)} "
        f"{least}: log shares from {low:.2f} to {high:.2f}"
    )
    return message, low


def _rare(targets: Targets) -> tuple[str, float] | None:
    share = targets.mean
    if targets.size < _BINARY or not 0 < share < 1 or max(share / (1 - share), (1 - share) / share) < _RATIO:
        return None
    value = math.log(share / (1 - share))
    return f"{share:.3g} of the {targets.size} targets in the first batch are positive: log odds {value:.2f}", value


def _distant(targets: Targets) -> tuple[str, float] | None:
    std = math.sqrt(targets.variance)
    if abs(targets.mean) <= max(1.0, _FAR * std):
        return None
    return (
        f"the targets of the first batch are {targets.mean:.3g} +- {std:.2g}: start at {targets.mean:.3g}",
        targets.mean,
    )
