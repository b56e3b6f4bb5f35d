"""LT113: samples that are all zero, all alike, or batches that are all the same one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["ENOUGH_BATCHES", "LT113", "Print", "Prints", "degenerate_input"]

LT113 = register(
    Rule(
        code="LT113",
        name="degenerate-input",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "A loader that gives zeros, one sample over and over, or one batch over and over trains without an error, "
            "and the loss falls or stands still for reasons that have nothing to do with the task."
        ),
        remedy=(
            "look at what the model gets, not at the files: `x, y = next(iter(loader)); print(x.mean(), x.std())`; a "
            "`__getitem__` that ignores its index, a failed decode or a cached batch look like this."
        ),
        source="TheDeepChecker (Ben Braiek and Khomh 2022); TrainCheck (2025); Karpathy 2019, A Recipe, step 1",
    )
)

Print = tuple[float, float, float, float]
"""Of one sample of one tensor: smallest and largest value, sum, and the product with a fixed vector."""

Prints = Mapping[str, Sequence[Print]]
"""One :data:`Print` per sample, by the tensors of the batch."""

ENOUGH_BATCHES = 3
_FEWEST_SAMPLES = 8
_FEWEST_VALUES = 4


def degenerate_input(
    batches: Sequence[Prints], inputs: Mapping[str, int], *, may_repeat: bool = False
) -> Finding | None:
    """LT113 if the model is fed with zeros, with one sample, or with one batch only.

    Samples are compared over all tensors that the model is fed with, so a label embedding or a mask that many samples
    share says nothing. Identical samples of a few small whole numbers (one-hot, binary and categorical features) are
    legal.

    Args:
        batches: of the first batches of an epoch, in order.
        inputs: the tensors that the model is fed with, and how many values a sample of each has.
        may_repeat: the same batch again and again is meant (full-batch training, a dataset without an index).

    Example:
        >>> zeros = {"batch[0]": [(0.0, 0.0, 0.0, 0.0)] * 16}
        >>> degenerate_input([zeros], {"batch[0]": 784}).message
        '16 of 16 samples of the batch are all zero'
    """
    if not inputs or not batches:
        return None
    rows = [joined for prints in batches if (joined := _joined(prints, inputs)) is not None]
    if len(rows) < len(batches) or len(rows[0]) < _FEWEST_SAMPLES:
        return None
    where = ", ".join(inputs)
    worst = [found for batch in rows if (found := _most_alike(batch, sum(inputs.values()))) is not None]
    if 2 * len(worst) > len(rows):
        what, count, samples = worst[0]
        return LT113.finding(
            f"{count} of {samples} samples of the batch are {what}",
            where=where,
            evidence={"alike": count, "samples": samples, "batches": len(worst), "what": what},
        )
    is_categorical = all(_is_categorical(print_) for sample in rows[0] for print_ in sample)
    repeats = len(rows) >= ENOUGH_BATCHES and all(batch == rows[0] for batch in rows[1:])
    if repeats and not may_repeat and not is_categorical:
        return LT113.finding(
            f"each of the first {len(rows)} batches is the same one",
            where=where,
            evidence={"batches": len(rows), "samples": len(rows[0])},
        )
    return None


def _joined(prints: Prints, inputs: Mapping[str, int]) -> list[tuple[Print, ...]] | None:
    """Each sample's prints over all inputs; ``None`` where they are not all known, or not of the same samples."""
    if any(name not in prints for name in inputs):
        return None
    lengths = {len(prints[name]) for name in inputs}
    return list(zip(*(prints[name] for name in inputs), strict=True)) if len(lengths) == 1 else None


def _most_alike(batch: Sequence[tuple[Print, ...]], values: int) -> tuple[str, int, int] | None:
    """What more than half of the samples are."""
    if values < _FEWEST_VALUES or len(batch) < _FEWEST_SAMPLES:
        return None
    sample, count = Counter(batch).most_common(1)[0]
    if 2 * count <= len(batch):
        return None
    if all(print_[:2] == (0.0, 0.0) for print_ in sample):
        return "all zero", count, len(batch)
    if all(_is_categorical(print_) for print_ in sample):
        return None
    return "identical", count, len(batch)


def _is_categorical(print_: Print) -> bool:
    low, high, total, _ = print_
    return low >= -1 and high <= 1 and all(float(number).is_integer() for number in (low, high, total))
