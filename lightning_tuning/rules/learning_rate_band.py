"""LT408: a learning rate outside the band in which its optimizer usually works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lightning_tuning.findings import Finding, Rule, Severity, register
from lightning_tuning.rules._optimizers import Family, ParameterGroup, by_optimizer

__all__ = ["LT408", "Rate", "RateCourse", "learning_rate_bands"]

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
        remedy=(
            "Adam: `lr=3e-4`; SGD with momentum: `lr=0.01` to `0.1`; Adadelta: `lr=1.0`. `LRRangeTest()` measures one; "
            "`lightning-tuning explain optimizers` compares them."
        ),
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


class Rate(NamedTuple):
    """What one parameter group is trained with at the moment.

    Attributes:
        where: as of a :class:`ParameterGroup`, like the next two.
        optimizer: see there.
        family: see there.
        lr: the learning rate now.
    """

    where: str
    optimizer: int
    family: Family
    lr: float


_HIGHEST: Mapping[str, float] = {"adam": ADAM_HIGHEST, "sgd": SGD_HIGHEST}
_NAMES: Mapping[str, str] = {"adam": "an optimizer of Adam's family", "sgd": "SGD"}
_TAIL = 0.7
"""Of a run: what gets small only later is the end of a schedule."""
_LONG = 0.1
_LONG_ANYHOW = 200


class RateCourse:
    """Judges the rates that a schedule, a finder or the user's own hand sets in the course of a run.

    Too high is each reading above the band. Too low (of Adam's family) is a rate that was within the band and fell
    below it, of all groups, before seven tenths of the run, and has stayed there for a tenth of it; so warm-ups, the
    ends of annealing and the bottoms of cycles are left alone. What began outside of its band is for
    :func:`learning_rate_bands` to say.

    Args:
        horizon: optimizer steps of the run; ``None`` where nobody knows: then low for 200 steps is long.

    Example:
        >>> course = RateCourse(horizon=1000)
        >>> at = lambda step, lr: course.judge(step, [Rate("Adam group 0", 0, "adam", lr)])
        >>> at(0, 1e-3), at(100, 1e-9), [finding.message for finding in at(250, 1e-9)]
        ([], [], ["lr=1e-09 < 1e-06 since step 100, low for an optimizer of Adam's family; it was 0.001"])
    """

    def __init__(self, horizon: int | None = None) -> None:
        self.horizon = horizon
        self._highest: dict[int, float] = {}
        self._low_since: dict[int, int] = {}

    def judge(self, step: int, rates: Sequence[Rate]) -> list[Finding]:
        """Take the rates of all groups before optimizer step ``step``; at most one finding for each optimizer."""
        found = []
        for index in dict.fromkeys(rate.optimizer for rate in rates):
            own = [rate for rate in rates if rate.optimizer == index and rate.family in _HIGHEST]
            if own and (finding := self._judge(step, index, max(own, key=lambda rate: rate.lr))) is not None:
                found.append(finding)
        return found

    def _judge(self, step: int, optimizer: int, rate: Rate) -> Finding | None:
        before = self._highest.get(optimizer, 0.0)
        self._highest[optimizer] = max(before, rate.lr)
        bound, name = _HIGHEST[rate.family], _NAMES[rate.family]
        if rate.lr > bound:
            return _of_rate(rate, f"> {bound:g} at step {step}, high for {name}", bound)
        if rate.family != "adam" or not before >= ADAM_LOWEST > rate.lr:
            self._low_since.pop(optimizer, None)
            return None
        since = self._low_since.setdefault(optimizer, step)
        if self.horizon is not None and since > _TAIL * self.horizon:
            return None
        if step - since < (_LONG_ANYHOW if self.horizon is None else _LONG * self.horizon):
            return None
        return _of_rate(
            rate, f"< {ADAM_LOWEST:g} since step {since}, low for {name}; it was {before:g}", ADAM_LOWEST, since=since
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return {"highest": dict(self._highest), "low_since": dict(self._low_since)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self._highest, self._low_since = dict(state["highest"]), dict(state["low_since"])


def _of_rate(rate: Rate, verdict: str, threshold: float, *, since: int | None = None) -> Finding:
    evidence: dict[str, float | int] = {"lr": rate.lr, "threshold": threshold}
    remedy = LT408.remedy
    if since is not None:
        evidence["since"] = since
        remedy = "a floor for the schedule: `eta_min=1e-6`, or `min_lr=1e-6` of a plateau scheduler; look at its unit."
    return LT408.finding(f"lr={rate.lr:g} {verdict}", where=rate.where, evidence=evidence, remedy=remedy)
