"""LT507: early stopping ends the run before the lower learning rate has trained a step."""

from __future__ import annotations

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT507", "early_stopping_first"]

LT507 = register(
    Rule(
        code="LT507",
        name="early-stopping-first",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "EarlyStopping(patience=n) stops at the n-th check without improvement; ReduceLROnPlateau(patience=p) "
            "lowers the rate at reading p + 1 without improvement (patience=10: on the twelfth call). With n <= p + 1 "
            "the run is over before a single step was made at the lower rate: the plateau scheduler does nothing."
        ),
        remedy="EarlyStopping's patience at least 2 * (plateau patience + 1), so that the lower rate gets its turn.",
        source="lightning.pytorch.callbacks.EarlyStopping and torch.optim.lr_scheduler.ReduceLROnPlateau; measured.",
    )
)


def early_stopping_first(
    owner: str, monitor: str, *, stopping_patience: int, plateau_patience: int, checks_per_reading: int = 1
) -> Finding | None:
    """LT507 if a metric that goes flat stops the run before, or when, the rate is first lowered.

    The case ``n = p + 1`` belongs to it: both act on the same reading.

    Args:
        owner: class of the callback that lowers the rate.
        monitor: the metric that both watch.
        stopping_patience: ``EarlyStopping(patience=...)``, in checks.
        plateau_patience: ``ReduceLROnPlateau(patience=...)``, in readings.
        checks_per_reading: early stopping looks at every validation; a scheduler that steps per epoch reads one in so
            many.

    Example:
        >>> early_stopping_first("PlateauLR", "val_loss", stopping_patience=3, plateau_patience=3).message
        'EarlyStopping gives up after 3 checks without improvement of val_loss, PlateauLR lowers the rate after 4'
        >>> early_stopping_first("PlateauLR", "val_loss", stopping_patience=8, plateau_patience=3)
    """
    # The cut comes with reading p + 2, the end with check n + 1, counted from the first reading and the first check.
    needed = (plateau_patience + 2) * checks_per_reading - 1
    if stopping_patience > needed:
        return None
    return LT507.finding(
        f"EarlyStopping gives up after {stopping_patience} checks without improvement of {monitor}, "
        f"{owner} lowers the rate after {needed}",
        where=f"{owner}({monitor})",
        evidence={"early_stopping_checks": stopping_patience, "plateau_checks": needed},
        remedy=f"`EarlyStopping(monitor={monitor!r}, patience={2 * needed})`, or a smaller patience for {owner}.",
    )
