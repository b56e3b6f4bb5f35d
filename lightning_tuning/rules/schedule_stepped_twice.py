"""LT513: Lightning steps the scheduler, and so does the module."""

from __future__ import annotations

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT513", "stepped_twice"]

LT513 = register(
    Rule(
        code="LT513",
        name="schedule-stepped-twice",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "With automatic optimization Lightning steps every scheduler that `configure_optimizers` returns. A call "
            "of `scheduler.step()` in the module comes on top: the schedule runs ahead of the run and ends too early."
        ),
        remedy=(
            "drop `scheduler.step()` from the module, and say when in `configure_optimizers`: "
            '`{"scheduler": scheduler, "interval": "step", "frequency": 1}`.'
        ),
        source="Lightning's `configure_optimizers`: automatic optimization calls `lr_scheduler.step()` by itself.",
    )
)


def stepped_twice(where: str, *, counted: int, expected: int, batches: int) -> Finding | None:
    """LT513 if a scheduler has been stepped ``counted`` times where Lightning did so ``expected`` times.

    Args:
        where: how it is called in findings.
        counted: by the scheduler itself, since training began.
        expected: Lightning's own count of the same time; at 0 it leaves the stepping to the module.
        batches: trained meanwhile.

    Example:
        >>> stepped_twice("StepLR", counted=6, expected=3, batches=30).message
        'stepped 6 times in 30 batches, 3 of them by Lightning'
        >>> stepped_twice("StepLR", counted=3, expected=3, batches=30)
    """
    if expected < 1 or counted <= expected:
        return None
    return LT513.finding(
        f"stepped {counted} times in {batches} batches, {expected} of them by Lightning",
        where=where,
        evidence={"steps": counted, "by_lightning": expected, "batches": batches},
    )
