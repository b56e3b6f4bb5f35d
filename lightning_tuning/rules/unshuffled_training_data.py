"""LT106: the training data come sorted by class, and nobody shuffles them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT106", "LabelOrder"]

LT106 = register(
    Rule(
        code="LT106",
        name="unshuffled-training-data",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "Batches of one class each teach the net to answer that class whatever it sees, and the next class undoes "
            "it: the loss falls within a class and jumps at the next one."
        ),
        remedy="`DataLoader(dataset, batch_size=..., shuffle=True)` for training.",
        source="Humbatova et al. 2020, Taxonomy of Real Faults in Deep Learning Systems; Karpathy 2019",
    )
)

_FAR_BELOW = 0.5
_ENOUGH_LABELS = 64
_ENOUGH_BATCHES = 4


class LabelOrder:
    """Follows the labels of an epoch in the order in which they come.

    Sorted means that no class comes back once it was left, and that a batch's labels have on average less than half of
    the entropy of all labels seen. A class that comes back (as in shuffled data, at once; and in a recording of what
    happened, before long) clears the run for good.

    Example:
        >>> order = LabelOrder()
        >>> for batch in ([0] * 16, [0] * 16, [1] * 16, [1] * 16):
        ...     order.take(batch)
        >>> order.finding("batch[1]").message
        'labels batch[1] come sorted: 0.00 bits in a batch of 1.00 bits in 4 batches, and the loader does not shuffle'
    """

    def __init__(self) -> None:
        self.is_cleared = False
        self.batches = 0
        self._entropies = 0.0
        self._counts: Counter[int] = Counter()
        self._last: int | None = None

    @property
    def classes(self) -> int:
        """How many were seen."""
        return len(self._counts)

    def take(self, labels: Sequence[int]) -> None:
        """The labels of the next batch."""
        self.batches += 1
        self._entropies += entropy(Counter(labels))
        for label in labels:
            if label != self._last and label in self._counts:
                self.is_cleared = True
                return
            self._counts[label] += 1
            self._last = label

    def finding(self, where: str) -> Finding | None:
        """LT106, if what was seen so far is sorted."""
        seen, prior = sum(self._counts.values()), entropy(self._counts)
        if self.is_cleared or seen < _ENOUGH_LABELS or self.batches < _ENOUGH_BATCHES or len(self._counts) < 2:
            return None
        if max(self._counts.values()) == 1:
            return None  # numbers of samples, not classes
        within = self._entropies / self.batches
        if within >= _FAR_BELOW * prior:
            return None
        return LT106.finding(
            f"labels {where} come sorted: {within:.2f} bits in a batch of {prior:.2f} bits in {self.batches} batches, "
            "and the loader does not shuffle",
            where=where,
            evidence={
                "batch_entropy_bits": within,
                "prior_entropy_bits": prior,
                "threshold": _FAR_BELOW,
                "classes": len(self._counts),
                "batches": self.batches,
            },
        )


def entropy(counts: Counter[int]) -> float:
    """In bits.

    Example:
        >>> entropy(Counter("aabb")), entropy(Counter())
        (1.0, 0.0)
    """
    total = sum(counts.values())
    return sum(-n / total * math.log2(n / total) for n in counts.values() if n) + 0.0
