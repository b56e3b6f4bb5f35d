"""LT901: the best model of the run is not among those that are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules.plateau_mode import better_direction

__all__ = ["LT901", "best_is_lost", "metric_to_compare", "stops_past_the_best"]

LT901 = register(
    Rule(
        code="LT901",
        name="no-best-checkpoint",
        severity=Severity.INFO,
        kind="fact",
        why=(
            "Without a monitor ModelCheckpoint keeps the latest epoch alone. A run that over-fits, or that is stopped "
            "`patience` checks after its best one, so ends with a model that is worse than one it had."
        ),
        remedy='`ModelCheckpoint(monitor="val_loss", mode="min", save_top_k=1)`, and take `best_model_path`.',
        source="Lightning's default ModelCheckpoint (monitor=None); Google's Deep learning tuning playbook.",
    )
)

_LATE = 3
"""Readings in a row that are worse than the best one, so that a dip is none."""

_WORSE = 0.05
"""Of the best value (for metrics that rise: of what is missing to 1, or of the value beyond that)."""


def stops_past_the_best(monitor: str, patience: int) -> Finding | None:
    """LT901 for an early stopping beside checkpoints that follow no metric: the run's end is known to be past its best.

    Args:
        monitor: what early stopping watches.
        patience: its patience; at 0 the run ends right after the best.

    Example:
        >>> stops_past_the_best("val_loss", 3).message
        'EarlyStopping ends the run 3 checks after the best val_loss, and only the latest checkpoint is kept'
    """
    if patience < 1:
        return None
    return LT901.finding(
        f"EarlyStopping ends the run {patience} check{'' if patience == 1 else 's'} after the best {monitor}, and only "
        "the latest checkpoint is kept",
        where="ModelCheckpoint",
        evidence={"monitor": monitor, "patience": patience},
        remedy=_remedy(monitor, better_direction(monitor) or "min"),
    )


def best_is_lost(metric: str, readings: Sequence[float]) -> Finding | None:
    """LT901 if ``metric`` has been clearly worse than its best for three readings, and nothing keeps the best.

    Args:
        metric: whose name says which way is better (see :func:`metric_to_compare`).
        readings: one per epoch, oldest first.

    Example:
        >>> best_is_lost("val_loss", [0.9, 0.4, 0.5, 0.52, 0.55]).message
        'val_loss was 0.4 at reading 2 and has been worse by 5 % and more for 3 since (now 0.55); the latest is kept'
        >>> best_is_lost("val_loss", [0.9, 0.5, 0.41, 0.4, 0.41])
    """
    mode = better_direction(metric)
    if mode is None or len(readings) <= _LATE or not all(map(math.isfinite, readings)):
        return None
    best = (min if mode == "min" else max)(readings)
    margin = _WORSE * (abs(best) if mode == "min" or best > 1 else max(1 - best, 0.2))
    behind = [(value - best if mode == "min" else best - value) > margin for value in readings]
    if margin == 0 or not all(behind[-_LATE:]):
        return None
    return LT901.finding(
        f"{metric} was {best:.4g} at reading {readings.index(best) + 1} and has been worse by 5 % and more for "
        f"{_LATE} since (now {readings[-1]:.4g}); the latest is kept",
        where="ModelCheckpoint",
        evidence={"metric": metric, "best": best, "last": readings[-1], "readings": len(readings)},
        remedy=_remedy(metric, mode),
    )


def metric_to_compare(metrics: Sequence[str]) -> str | None:
    """The validation metric that tells the better model, out of those that were logged; a loss if there is one.

    Example:
        >>> metric_to_compare(["train_loss", "val_acc", "val_loss", "lr"])
        'val_loss'
        >>> metric_to_compare(["train_loss", "lr"])
    """
    known = [m for m in sorted(metrics) if "val" in m.lower() and better_direction(m) is not None]
    known.sort(key=lambda metric: better_direction(metric) != "min")
    return next(iter(known), None)


def _remedy(metric: str, mode: str) -> str:
    return f"`ModelCheckpoint(monitor={metric!r}, mode={mode!r}, save_top_k=1)`, and take its `best_model_path`."
