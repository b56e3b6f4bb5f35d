"""Findings on the axis of the steps: as links above the curves, and as lines through them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from lightning_tuning.findings import Finding
from lightning_tuning.reporters.html._plot import step_axis
from lightning_tuning.reporters.html._words import listed, span

__all__ = ["Pin", "pin_layers", "pin_rows", "pins"]

PLACES = 24
"""Pins that have room side by side on a telephone."""
SEVERITIES = ["error", "warning", "info"]


@dataclasses.dataclass(frozen=True)
class Pin:
    """Findings that were first seen at about the same step.

    Attributes:
        step: of the worst of them.
        share: how far along the axis, in percent.
        severity: of the worst.
        anchor: the element in which the worst is told.
        label: all of them in words.
        count: how many.
    """

    step: int
    share: float
    severity: str
    anchor: str
    label: str
    count: int


def pins(
    findings: Sequence[Finding], anchors: Mapping[int, str], steps: tuple[int, int], places: int = PLACES
) -> list[Pin]:
    """One for each stretch of the axis in which a finding was first seen.

    Args:
        findings: worst first.
        anchors: of their elements, by place in ``findings``; those that have none are not shown.
        steps: the first and the last of the axis.
        places: stretches.

    Example:
        >>> from lightning_tuning.findings import Severity
        >>> found = Finding("LT701", "non-finite-loss", Severity.ERROR, "the loss is nan", step=50)
        >>> (pin,) = pins([found], {0: "f0"}, (0, 100))
        >>> pin.label, pin.share
        ('error LT701 non-finite-loss, step 50', 50.0)
    """
    first, last = steps
    length = max(1, last - first)
    stretches: dict[int, list[int]] = {}
    for place, found in enumerate(findings):
        if found.step is not None and place in anchors and first <= found.step <= last:
            stretches.setdefault(min(places - 1, (found.step - first) * places // length), []).append(place)
    shown = []
    for _, members in sorted(stretches.items()):
        worst = findings[members[0]]
        step = worst.step or 0
        words = [f"{findings[place].severity} {findings[place].code} {findings[place].name}" for place in members]
        counted = [
            f"{word} ({words.count(word):,} places)" if words.count(word) > 1 else word for word in dict.fromkeys(words)
        ]
        seen = [findings[place].step or 0 for place in members]
        label = f"{listed(counted)}, {span(min(seen), max(seen))}"
        share = 100 * (step - first) / (last - first) if last > first else 50.0
        shown.append(Pin(step, round(share, 3), str(worst.severity), anchors[members[0]], label, len(members)))
    return shown


def pin_rows(shown: Sequence[Pin]) -> list[dict[str, Any]]:
    """The rows of the data set ``pins``."""
    return [{"x": pin.step, "s": pin.severity, "tip": pin.label, "href": f"#{pin.anchor}"} for pin in shown]


def pin_layers(steps: tuple[int, int]) -> list[alt.Chart]:
    """A thin line that is seen, and a broad one that is easily met by a pointer."""
    lines = alt.Chart(alt.NamedData("pins")).encode(x=step_axis(steps))
    seen = [  # a layer for each, since a scale of their colours would be one with that of the curves
        lines.transform_filter(f"datum.s === '{severity}'").mark_rule(
            strokeDash=[3, 3], strokeWidth=1.25, color=f"css(--{severity})", clip=True
        )
        for severity in SEVERITIES
    ]
    met = lines.mark_rule(strokeWidth=10, opacity=0, cursor="pointer", clip=True).encode(
        href="href:N", tooltip=alt.Tooltip("tip:N", title="found")
    )
    return [*seen, met]
