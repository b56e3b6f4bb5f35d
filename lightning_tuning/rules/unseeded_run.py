"""LT904: a run that goes wrong and cannot be repeated."""

from __future__ import annotations

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT904", "is_seed", "unseeded_run"]

LT904 = register(
    Rule(
        code="LT904",
        name="unseeded-run",
        severity=Severity.INFO,
        kind="advice",
        why=(
            "Whoever looks for a fault changes one thing at a time; without a seed initial weights, dropout and the "
            "order of the data change too, and the next run differs whether the change helped or not."
        ),
        remedy="`lightning.pytorch.seed_everything(42, workers=True)` before the model is made.",
        source="Karpathy 2019, A recipe for training neural networks: always use a fixed random seed.",
    )
)

_LARGEST_SEED = 2**32 - 1


def is_seed(number: int) -> bool:
    """Whether torch's initial seed was chosen by somebody: by itself torch draws one of 53 bits.

    Example:
        >>> is_seed(42), is_seed(6_719_203_885_446_211)
        (True, False)
    """
    return 0 <= number <= _LARGEST_SEED


def unseeded_run(progress: str) -> Finding | None:
    """LT904 for a run without a seed that is flat or diverging; one that learns has no fault to look for.

    Example:
        >>> unseeded_run("flat").message
        'the run is flat, and no seed was set: it cannot be repeated to find out why'
        >>> unseeded_run("learning")
    """
    if progress not in ("flat", "diverging"):
        return None
    return LT904.finding(
        f"the run is {progress}, and no seed was set: it cannot be repeated to find out why",
        evidence={"progress": progress},
    )
