"""LT510: a function that returns a learning rate where a factor is asked for."""

from __future__ import annotations

from torch.optim.lr_scheduler import LambdaLR

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._schedule_curve import Curve

__all__ = ["LT510", "lambda_absolute"]

LT510 = register(
    Rule(
        code="LT510",
        name="lambda-absolute",
        severity=Severity.INFO,
        kind="fact",
        why=(
            "LambdaLR multiplies the optimizer's rate by what its function returns. One that returns the rate itself "
            "(1e-3 * .95 ** epoch, say, for lr=1e-3) squares it: the run trains at a millionth."
        ),
        remedy="return a factor that starts at 1 (`lambda epoch: 0.95**epoch`), or give the optimizer `lr=1.0`.",
        source="torch.optim.lr_scheduler.LambdaLR: the initial lr times a given function.",
    )
)

_SMALL = 0.01
_LARGEST_BASE = 0.1
"""Rates of .5 and 1 are given to be multiplied by a function that returns rates (Vaswani et al. 2017, section 5.3)."""


def lambda_absolute(scheduler: object, where: str, curve: Curve) -> Finding | None:
    """LT510 if every factor stays below .01, without a ramp, and is about as large as the rate it multiplies.

    Args:
        scheduler: others than ``LambdaLR`` have no function to be wrong about.
        where: how it is called in findings.
        curve: of the run, or of its beginning.
    """
    if not isinstance(scheduler, LambdaLR):
        return None
    worst: tuple[float, float] | None = None
    for index, base in enumerate(map(float, scheduler.base_lrs)):
        if base <= 0:
            continue
        factors = [rates[index] / base for rates in curve.rates]
        first, highest = factors[0], max(factors)
        is_rate = 0.1 * base <= highest <= 10 * base and base <= _LARGEST_BASE
        if not (0 < first < _SMALL and highest < _SMALL and highest <= 3 * first and is_rate):
            return None
        worst = base, first
    if worst is None:
        return None
    base, first = worst
    return LT510.finding(
        f"the function returns {first:.3g} at step 0, and at most that in the run: times lr={base:g} it trains at "
        f"{base * first:.3g}",
        where=where,
        evidence={"factor": first, "base_lr": base, "lr": base * first},
    )
