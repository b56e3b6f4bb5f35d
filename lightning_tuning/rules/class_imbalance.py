"""LT107: one class comes many times as often as another, and the loss counts each sample alike."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._leaves import batch_leaf
from lightning_tuning.rules._loss_terms import LossTerm, loss_terms

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["ENOUGH_LABELS", "LT107", "class_imbalance", "label_terms"]

LT107 = register(
    Rule(
        code="LT107",
        name="class-imbalance",
        severity=Severity.INFO,
        kind="fact",
        why=(
            "Under plain cross entropy a class counts as often as it comes: a net that never answers the rare one "
            "loses next to nothing, and accuracy does not show it."
        ),
        remedy=(
            "look at the metric of each class; `nn.CrossEntropyLoss(weight=counts.sum() / (len(counts) * counts))`, or "
            "a `WeightedRandomSampler`."
        ),
        source="Amazon SageMaker Debugger, rule ClassImbalance (ratio 10)",
    )
)

ENOUGH_LABELS = 500
_RATIO = 10.0


def label_terms(graph: Graph) -> list[tuple[str, LossTerm]]:
    """Losses over classes whose target is a tensor of the batch with one class per sample, under that tensor's name.

    Dense targets (a class per pixel or token) are left out: there one class outnumbers the others by nature.
    """
    found = []
    for term in graph.answer(loss_terms):
        leaf = None if term.target is None else batch_leaf(graph, term.target)
        if term.kind not in ("cross_entropy", "nll") or leaf is None or leaf.name is None:
            continue
        if leaf.dtype.is_floating_point or leaf.dtype.is_complex or not leaf.shape:
            continue
        if math.prod(leaf.shape) == leaf.shape[0] and len(graph.values[term.prediction].shape) == 2:
            found.append((leaf.name, term))
    return found


def is_plain(term: LossTerm) -> bool:
    """Every sample counts alike: no weights, and nothing between the loss of a sample and their mean (focal loss)."""
    return not term.is_weighted and term.reduction in ("mean", "sum")


def class_imbalance(where: str, counts: Mapping[int, int]) -> Finding | None:
    """LT107 if the largest class is more than ten times the smallest one that was seen, beyond chance.

    Args:
        where: key path of the labels.
        counts: how often each class was seen. A class that was never seen is not judged: a head may be wider than the
            data.

    Example:
        >>> class_imbalance("batch[1]", {0: 950, 1: 30}).message
        'class 0 comes 32 times as often as class 1 (950 to 30 of 980 labels), and the loss has no weights'
        >>> class_imbalance("batch[1]", {0: 490, 1: 490})
    """
    seen = Counter({label: count for label, count in counts.items() if count > 0 and label >= 0})
    total = sum(seen.values())
    if total < ENOUGH_LABELS or len(seen) < 2:
        return None
    (largest, most), (smallest, least) = seen.most_common()[0], seen.most_common()[-1]
    # The upper end of what a class seen `least` times may really be worth (two standard deviations of a count).
    if most <= _RATIO * (least + 2 * math.sqrt(least) + 2):
        return None
    return LT107.finding(
        f"class {largest} comes {most / least:.0f} times as often as class {smallest} ({most} to {least} of {total} "
        "labels), and the loss has no weights",
        where=where,
        evidence={
            "ratio": most / least,
            "threshold": _RATIO,
            "largest": largest,
            "smallest": smallest,
            "labels": total,
            "classes": len(seen),
        },
    )
