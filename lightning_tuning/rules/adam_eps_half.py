"""LT409: an epsilon that is zero in half precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._optimizers import ParameterGroup, by_optimizer

__all__ = ["LT409", "adam_eps_half"]

LT409 = register(
    Rule(
        code="LT409",
        name="adam-eps-half",
        severity=Severity.WARNING,
        kind="fact",
        why=(
            "The smallest number of float16 is 6e-8: a smaller eps rounds to 0, and so do the squares of gradients "
            "below 5e-3 on their way into the second moment. The first step is then divided by zero, and the weights "
            "become inf or NaN."
        ),
        remedy='`Trainer(precision="16-mixed")` keeps the optimizer in float32; else `Adam(..., eps=1e-4)`.',
        source="IEEE 754 binary16; measured with torch 2.13: Adam's first step on a gradient of 1e-3 gives inf",
    )
)

SMALLEST_HALF = 6e-8
"""Below the smallest subnormal of float16, 2**-24 = 5.96e-8, rounded up."""


def adam_eps_half(groups: Sequence[ParameterGroup], state: Mapping[Any, Any]) -> list[Finding]:
    """One finding for each optimizer that adds such an eps to moments kept in float16.

    Args:
        groups: of the optimizers.
        state: of all of them by parameter, after a step: an optimizer that keeps float32 moments of half-precision
            parameters is well.
    """
    findings = []
    for own in by_optimizer(groups):
        for group in own:
            eps = group.number("eps", default=math.inf)
            halves = [name for name, p in group.parameters if _has_half_moments(p, state.get(p))]
            if halves and 0 <= eps < SMALLEST_HALF:
                findings.append(
                    LT409.finding(
                        f"eps={eps:g} < {SMALLEST_HALF:g}, which is 0 in the float16 state of {len(halves)} parameters "
                        f"(`{halves[0]}`, ...)",
                        where=group.where,
                        evidence={"eps": eps, "threshold": SMALLEST_HALF, "parameters": len(halves)},
                    )
                )
                break
    return findings


def _has_half_moments(parameter: Tensor, state: Any) -> bool:
    if parameter.dtype is not torch.float16 or not isinstance(state, Mapping):
        return False
    moments = [value for value in state.values() if isinstance(value, Tensor) and value.shape == parameter.shape]
    return any(moment.dtype is torch.float16 for moment in moments)
