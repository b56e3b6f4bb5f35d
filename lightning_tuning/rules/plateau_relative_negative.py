"""LT506: a relative threshold on a metric below zero turns round."""

from __future__ import annotations

from lightning_tuning.findings import Finding, Rule, Severity, register

__all__ = ["LT506", "relative_negative"]

_SMALL = 1e-3
"""Relative thresholds up to this one do harm in quiet metrics alone: a warning."""

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
            "torch.optim.lr_scheduler.ReduceLROnPlateau. Measured with torch 2.13, on a metric that falls to -2 and "
            "stays there, patience 5, median of 15 runs: without noise no relative threshold ever reduces (400 "
            "readings), an absolute one does after 6. With noise of 1e-3 of the value 1e-4 reduces 2 readings late, "
            "1e-3 some 20, and 1e-2 never; with noise of 1e-2, 1e-4 in time, 1e-3 two late, and 1e-1 never."
        ),
    )
)


def relative_negative(
    owner: str, monitor: str, value: float, *, mode: str, threshold: float, threshold_mode: str
) -> Finding | None:
    """LT506 if the reading ``value`` is one that the relative threshold gets wrong.

    An error, or a warning for a threshold of 1e-3 at most (torch's default is 1e-4). Measured, see the rule's source:
    what the threshold lets pass for better is then less than the noise of nearly every metric, and the rate falls a few
    readings late; it stays where it is for ever only if the metric is all but constant. Above that, it stays under
    ordinary noise too.

    Args:
        owner: class of the callback that watches.
        monitor: name of the metric.
        value: its reading.
        mode: ``"min"`` or ``"max"``; it goes wrong in both.
        threshold: of the scheduler; 0 is harmless.
        threshold_mode: ``"rel"`` or ``"abs"``.

    Example:
        >>> found = relative_negative("PlateauLR", "nll", -1.0, mode="min", threshold=1e-4, threshold_mode="rel")
        >>> str(found.severity), found.message.partition(": ")[0]
        ('warning', 'a slightly worse nll counts as better, so the rate may never be lowered')
        >>> found.message.partition(": ")[2]
        "nll is -1, and up to -0.9999 passes for an improvement (threshold_mode='rel', mode='min')"
        >>> relative_negative("PlateauLR", "nll", -1.0, mode="min", threshold=1e-4, threshold_mode="abs")
    """
    if threshold_mode != "rel" or threshold == 0 or not value < 0:
        return None
    bound = value * (1 - threshold if mode == "min" else 1 + threshold)
    return LT506.finding(
        f"a slightly worse {monitor} counts as better, so the rate may never be lowered: {monitor} is {value:g}, and "
        f"{'up' if mode == 'min' else 'down'} to {bound:.6g} passes for an improvement (threshold_mode='rel', "
        f"mode={mode!r})",
        where=f"{owner}({monitor})",
        evidence={"monitor": monitor, "value": value, "threshold": threshold, "mode": mode},
        severity=Severity.WARNING if threshold <= _SMALL else None,
    )
