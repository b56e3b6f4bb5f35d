"""LT206: the first loss is not that of a net that knows nothing yet."""

from __future__ import annotations

import math
from typing import NamedTuple

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._loss_terms import LossKind

__all__ = ["LT206", "ExpectedLoss", "expected_loss", "initial_loss_off"]

LT206 = register(
    Rule(
        code="LT206",
        name="initial-loss-off",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "A net that knows nothing should say so: cross entropy starts at ln K (torch's default init at 1.003-1.034 "
            "of it). Far above, it is sure of wrong answers and has to unlearn them first: weights or inputs are too "
            "large (0-255 images: 15-69 times). Far below, it has seen the answers."
        ),
        remedy=(
            "normalise inputs and targets; a smaller last layer: `nn.init.normal_(head.weight, std=0.01)`, or "
            "`WeightInitCallback()`."
        ),
        source="Karpathy 2019, A Recipe for Training Neural Networks, 'verify loss @ init'",
    )
)

_ABOVE, _BELOW = 2.0, 0.5


class ExpectedLoss(NamedTuple):
    """What a loss is expected to be before training.

    Attributes:
        untrained: of a net whose output is 0, or all of whose classes are equally likely.
        constant: of the best constant answer, which a bias set to the prior gives; the lower of the two. 0 where the
            targets are not known.
        formula: of ``untrained``, for people.
    """

    untrained: float
    constant: float
    formula: str


def expected_loss(
    kind: LossKind,
    *,
    classes: int | None = None,
    mean: float | None = None,
    variance: float | None = None,
    entropy: float = 0.0,
) -> ExpectedLoss | None:
    """The loss, a mean over samples, that a fresh net should begin with; ``None`` where nobody can say.

    Args:
        kind: as of a :class:`LossTerm`.
        classes: K, for cross entropy and nll.
        mean: of the targets; for mse, and for the prior of bce.
        variance: of the targets, for mse.
        entropy: of the classes among the targets, in nats, for cross entropy and nll. Default 0: not known.

    Example:
        >>> expected_loss("cross_entropy", classes=10, entropy=1.5)
        ExpectedLoss(untrained=2.302585092994046, constant=1.5, formula='ln 10')
        >>> expected_loss("mse", mean=3.0, variance=1.0)
        ExpectedLoss(untrained=10.0, constant=1.0, formula='var(y) + mean(y)^2')
    """
    if kind in ("cross_entropy", "nll"):
        if classes is None or classes < 2:
            return None
        return ExpectedLoss(math.log(classes), min(entropy, math.log(classes)), f"ln {classes}")
    if kind in ("bce", "bce_logits"):
        return ExpectedLoss(math.log(2), 0.0 if mean is None else _binary_entropy(mean), "ln 2")
    if kind == "mse" and mean is not None and variance is not None:
        second = variance + mean * mean
        return ExpectedLoss(second, variance, "var(y) + mean(y)^2") if 0 < second < math.inf else None
    return None


def initial_loss_off(loss: float, expected: ExpectedLoss, *, where: str = "") -> Finding | None:
    """LT206 if ``loss`` is above twice what is expected of an untrained net, or below half of the best constant's.

    What is not finite is LT701's; below 0 it is no such loss at all, for which LT104 and LT315 have the reason.

    Args:
        loss: of the first batch.
        expected: see :func:`expected_loss`.
        where: module path of the output layer.

    Example:
        >>> initial_loss_off(23.0, expected_loss("cross_entropy", classes=10)).message
        'the first loss is 23, 9.99 times the 2.303 (ln 10) of a net that knows nothing; twice is too much'
        >>> initial_loss_off(2.35, expected_loss("cross_entropy", classes=10))
    """
    if not math.isfinite(loss) or loss < 0:
        return None
    ratio = loss / expected.untrained
    if ratio > _ABOVE:
        message = (
            f"the first loss is {loss:.4g}, {ratio:.3g} times the {expected.untrained:.4g} ({expected.formula}) of a "
            "net that knows nothing; twice is too much"
        )
        remedy = None
    elif loss < _BELOW * expected.constant:
        message = (
            f"the first loss is {loss:.4g}, less than half of the {expected.constant:.4g} that the best constant "
            "answer gives: the net knows the answers before it has learned"
        )
        remedy = "look for the target among the inputs, and for trained weights where fresh ones were meant."
    else:
        return None
    return LT206.finding(
        message,
        where=where,
        remedy=remedy,
        evidence={"loss": loss, "expected": expected.untrained, "ratio": ratio, "constant": expected.constant},
    )


def _binary_entropy(p: float) -> float:
    if not 0 < p < 1:
        return 0.0
    return -p * math.log(p) - (1 - p) * math.log1p(-p)
