"""LT405: weight decay that Adam divides away."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._optimizers import ParameterGroup, by_optimizer

__all__ = ["LT405", "adam_l2"]

LT405 = register(
    Rule(
        code="LT405",
        name="adam-l2",
        severity=Severity.INFO,
        kind="advice",
        why=(
            "Adam's weight_decay is added to the gradient and then divided by the gradient's own size, so an element "
            "with a large gradient is hardly decayed: from 1, with a gradient of 10, lr .1 and decay .1, one step "
            "ends at .9 with and without decay, AdamW's at .89."
        ),
        remedy="`torch.optim.AdamW(self.parameters(), lr=..., weight_decay=0.01)`, or no weight decay.",
        source="Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization, section 2",
    )
)


def adam_l2(groups: Sequence[ParameterGroup]) -> list[Finding]:
    """One finding for each optimizer of Adam's family whose weight decay goes through the gradient."""
    findings = []
    for own in by_optimizer(groups):
        coupled = [g for g in own if g.family == "adam" and g.decoupled is False and g.number("weight_decay") > 0]
        if coupled:
            first = coupled[0]
            decay = first.number("weight_decay")
            more = f" (and {len(coupled) - 1} more groups)" if len(coupled) > 1 else ""
            findings.append(
                LT405.finding(
                    f"weight_decay={decay:g}{more} is added to the gradient, which Adam then normalises",
                    where=first.where,
                    evidence={"weight_decay": decay, "groups": len(coupled)},
                )
            )
    return findings
