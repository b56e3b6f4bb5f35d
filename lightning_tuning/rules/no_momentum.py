"""LT407: plain mini-batch gradient descent."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._optimizers import ParameterGroup, by_optimizer

__all__ = ["LT407", "no_momentum"]

LT407 = register(
    Rule(
        code="LT407",
        name="no-momentum",
        severity=Severity.INFO,
        kind="advice",
        why=(
            "SGD without momentum is plain mini-batch gradient descent: along directions of small curvature, momentum "
            ".9 goes ten times as far with the same learning rate."
        ),
        remedy=(
            "`torch.optim.SGD(self.parameters(), lr=..., momentum=0.9, nesterov=True)`; others beside it: "
            "`lightning-tuning explain optimizers`."
        ),
        source="Sutskever et al. 2013, On the importance of initialization and momentum in deep learning",
    )
)


def no_momentum(groups: Sequence[ParameterGroup]) -> list[Finding]:
    """One finding for each SGD none of whose groups has momentum."""
    findings = []
    for own in by_optimizer(groups):
        first = own[0]
        if all(g.family == "sgd" and g.number("momentum") == 0 for g in own) and first.lr > 0:
            findings.append(
                LT407.finding(
                    f"momentum=0 with lr={first.lr:g}: plain mini-batch gradient descent",
                    where=first.where,
                    evidence={"momentum": 0.0, "lr": first.lr},
                )
            )
    return findings
