"""LT408: a learning rate outside the band in which its optimizer usually works."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._optimizers import ParameterGroup, by_optimizer

__all__ = ["LT408", "learning_rate_bands"]

LT408 = register(
    Rule(
        code="LT408",
        name="learning-rate-band",
        severity=Severity.WARNING,
        kind="symptom",
        why=(
            "An Adam step moves every weight by about lr, whatever the gradient: above 1e-2 that is as much as the "
            "weights of a usual initialization themselves, below 1e-6 nothing moves within a run. SGD above 1 leaves "
            "the region where the gradient means anything. Adadelta's lr multiplies a step that is sized already."
        ),
        remedy="Adam: `lr=3e-4`; SGD with momentum: `lr=0.01` to `0.1`; Adadelta: `lr=1.0`.",
        source="Kingma and Ba 2015, section 2.1; Zeiler 2012, ADADELTA; Bengio 2012, Practical recommendations",
    )
)

ADAM_HIGHEST, ADAM_LOWEST, SGD_HIGHEST, ADADELTA_LOWEST = 1e-2, 1e-6, 1.0, 1e-2


def learning_rate_bands(groups: Sequence[ParameterGroup]) -> list[Finding]:
    """At most one finding for each optimizer of a known family.

    Too high is judged by the rate now, so that a base rate that a schedule multiplies down does not count; too low only
    if it holds for every group, and for the rate that a schedule begins below.
    """
    return [finding for own in by_optimizer(groups) if (finding := _judge(own)) is not None]


def _judge(own: Sequence[ParameterGroup]) -> Finding | None:
    family = own[0].family
    highest = max(own, key=lambda group: group.lr)
    peak = max(group.peak_lr for group in own)
    if family == "adam" and highest.lr > ADAM_HIGHEST:
        return _finding(
            highest, highest.lr, f"> {ADAM_HIGHEST:g}, high for an optimizer of Adam's family", ADAM_HIGHEST
        )
    if family == "adam" and 0 < peak < ADAM_LOWEST:
        return _finding(own[0], peak, f"< {ADAM_LOWEST:g}, low for an optimizer of Adam's family", ADAM_LOWEST)
    if family == "sgd" and highest.lr > SGD_HIGHEST:
        return _finding(highest, highest.lr, f"> {SGD_HIGHEST:g}, high for SGD", SGD_HIGHEST)
    if family == "adadelta" and 0 < peak <= ADADELTA_LOWEST:
        return _finding(own[0], peak, f"<= {ADADELTA_LOWEST:g}, but it multiplies a step of its own", ADADELTA_LOWEST)
    return None


def _finding(group: ParameterGroup, lr: float, verdict: str, threshold: float) -> Finding:
    return LT408.finding(f"lr={lr:g} {verdict}", where=group.where, evidence={"lr": lr, "threshold": threshold})
