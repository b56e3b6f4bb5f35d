"""LT506: a relative threshold on a metric below zero turns round."""

from __future__ import annotations

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT506", "relative_negative"]

LT506 = register(
    Rule(
        code="LT506",
        name="plateau-relative-negative",
        severity=Severity.ERROR,
        kind="fact",
        why=(
            "A metric below zero that stays flat, or worsens by less than the threshold per reading, counts as "
            "improving for ever, and the learning rate is never lowered: with a relative threshold a reading is better "
            "if it is below best * (1 - threshold), which for a best of -1 is -0.9999, worse than the best."
        ),
        remedy='`threshold_mode="abs"`, with a threshold in units of the metric.',
        source=(
            "torch.optim.lr_scheduler.ReduceLROnPlateau. Measured with torch 2.13: thirty readings from -1 on, each "
            "worse by 5e-5 of its value, never reduce at patience 2; worse by 1e-2 they do."
        ),
    )
)


def relative_negative(
    owner: str, monitor: str, value: float, *, mode: str, threshold: float, threshold_mode: str
) -> Finding | None:
    """LT506 if the reading ``value`` is one that the relative threshold gets wrong.

    Args:
        owner: class of the callback that watches.
        monitor: name of the metric.
        value: its reading.
        mode: ``"min"`` or ``"max"``; it goes wrong in both.
        threshold: of the scheduler; 0 is harmless.
        threshold_mode: ``"rel"`` or ``"abs"``.

    Example:
        >>> relative_negative("PlateauLR", "nll", -1.0, mode="min", threshold=1e-4, threshold_mode="rel").message
        "nll is -1: with threshold_mode='rel', up to -0.9999 counts as better (mode='min')"
        >>> relative_negative("PlateauLR", "nll", -1.0, mode="min", threshold=1e-4, threshold_mode="abs")
    """
    if threshold_mode != "rel" or threshold == 0 or not value < 0:
        return None
    bound = value * (1 - threshold if mode == "min" else 1 + threshold)
    return LT506.finding(
        f"{monitor} is {value:g}: with threshold_mode='rel', up to {bound:.6g} counts as better (mode={mode!r})",
        where=f"{owner}({monitor})",
        evidence={"monitor": monitor, "value": value, "threshold": threshold, "mode": mode},
    )
