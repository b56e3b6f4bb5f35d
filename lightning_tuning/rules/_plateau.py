"""Everything that can be wrong with a plateau scheduler, asked at once: LT505, LT506, LT507."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning_tuning.findings import Finding
from lightning_tuning.rules.early_stopping_first import early_stopping_first
from lightning_tuning.rules.plateau_mode import contradicted_modes, contradicts_name, contradicts_observation
from lightning_tuning.rules.plateau_relative_negative import relative_negative

__all__ = ["judge_plateau"]


def judge_plateau(
    owner: str,
    monitor: str,
    *,
    mode: str,
    patience: int,
    threshold: float,
    threshold_mode: str,
    stoppers: Sequence[tuple[str, str, int, int]],
    readings: Sequence[float],
    is_learning: bool,
) -> Iterator[Finding]:
    """The findings on one plateau scheduler and the early stopping beside it.

    Args:
        owner: class of the callback or mixin that watches.
        monitor: name of the metric.
        mode: of the scheduler, like the next three.
        patience: in readings.
        threshold: least improvement.
        threshold_mode: ``"rel"`` or ``"abs"``.
        stoppers: monitor, mode, patience and checks per reading of each early stopping in the run.
        readings: of the metric so far, oldest first.
        is_learning: the training loss has fallen.

    Yields:
        Each rule's finding; the same facts give the same findings, so that the caller can report them once.

    Example:
        >>> stoppers = [("val_acc", "max", 2, 1)]
        >>> facts = dict(patience=5, threshold=1e-4, threshold_mode="rel", readings=[], is_learning=True)
        >>> [f.code for f in judge_plateau("PlateauLR", "val_acc", mode="min", stoppers=stoppers, **facts)]
        ['LT505', 'LT507']
    """
    candidates = [
        contradicts_name(owner, monitor, mode),
        contradicts_observation(owner, monitor, mode, readings, is_learning=is_learning),
    ]
    if readings:
        candidates.append(
            relative_negative(
                owner, monitor, readings[-1], mode=mode, threshold=threshold, threshold_mode=threshold_mode
            )
        )
    for other_monitor, other_mode, other_patience, checks_per_reading in stoppers:
        candidates.append(contradicts_name("EarlyStopping", other_monitor, other_mode))
        if other_monitor != monitor:
            continue
        candidates.append(contradicted_modes(owner, monitor, mode, "EarlyStopping", other_mode))
        candidates.append(
            early_stopping_first(
                owner,
                monitor,
                stopping_patience=other_patience,
                plateau_patience=patience,
                checks_per_reading=checks_per_reading,
            )
        )
    yield from (finding for finding in candidates if finding is not None)
