"""LT108: samples of the training data that are validated on as well."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT108", "Overlap", "train_val_leakage"]

LT108 = register(
    Rule(
        code="LT108",
        name="train-val-leakage",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "Validation samples that were trained on measure memory, not generalization: early stopping, checkpoints "
            "and learning rates are then chosen by a number that only falls."
        ),
        remedy=(
            "split once, by index, before anything is oversampled or augmented: "
            "`train, val = random_split(dataset, [0.9, 0.1], generator=torch.Generator().manual_seed(0))`."
        ),
        source="Karpathy 2019, A Recipe for Training Neural Networks; Kapoor & Narayanan 2023 (leakage in 17 fields)",
    )
)

MIN_SHARE = 0.01  # of the validation samples: below it, duplicates that any collection of data has
MIN_HITS = 3


@dataclass(frozen=True)
class Overlap:
    """What was found when the data of training and of one validation loader were held against each other.

    Attributes:
        loader: index of the validation loader.
        hits: validation samples looked at that are in the training samples looked at.
        val_seen: different validation samples looked at.
        val_total: samples of the validation set.
        train_seen: training samples looked at.
        train_total: samples of the training set.
        repeats: training samples looked at that repeat an earlier one: what chance alone does in such data.
        by_index: samples were told apart by their index in one and the same data set, not by their content.
    """

    loader: int
    hits: int
    val_seen: int
    val_total: int
    train_seen: int
    train_total: int
    repeats: int = 0
    by_index: bool = False

    @property
    def share(self) -> float:
        """Of the validation samples that are in the training set, estimated from those looked at."""
        looked_up = self.val_seen * self.train_seen / max(self.train_total, 1)
        return min(1.0, self.hits / looked_up) if looked_up else 0.0


def train_val_leakage(overlap: Overlap) -> Finding | None:
    """LT108 if 1 % of the validation samples or more were trained on, at least three of them.

    Natural duplicates (short texts, tables of few columns) are no leak: there must be twice as many hits as the
    training samples have among themselves.

    Args:
        overlap: of one validation loader.

    Example:
        >>> train_val_leakage(
        ...     Overlap(0, hits=40, val_seen=100, val_total=100, train_seen=200, train_total=200)
        ... ).evidence
        {'hits': 40, 'val_samples': 100, 'train_samples': 200, 'share': 0.4}
        >>> train_val_leakage(Overlap(0, 2, 1000, 1000, 2000, 60000)) is None
        True
    """
    by_chance = overlap.repeats / max(overlap.train_seen, 1) * overlap.val_seen
    if overlap.hits < MIN_HITS or overlap.share < MIN_SHARE or overlap.hits < 2 * by_chance:
        return None
    how = "by their index in one data set" if overlap.by_index else "by content"
    return LT108.finding(
        f"{overlap.hits} of {overlap.val_seen} validation samples looked at are among {overlap.train_seen} training "
        f"samples ({how}): about {overlap.share:.0%} of the validation data is trained on > {MIN_SHARE:.0%}",
        where=f"val_dataloader {overlap.loader}" if overlap.loader else "val_dataloader",
        evidence={
            "hits": overlap.hits,
            "val_samples": overlap.val_seen,
            "train_samples": overlap.train_seen,
            "share": round(overlap.share, 4),
        },
    )
