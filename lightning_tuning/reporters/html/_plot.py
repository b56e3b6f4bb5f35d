"""What every plot of the page has: words, a table, and pieces of Vega-Lite that look alike.

Data stay outside of the specification, under names of our own for their columns: the name of a module, with its dots
and brackets, is a value and never a field. Colours stand as ``css(--name)``, which the page's script replaces by the
colour of that name in the style sheet, so that light and dark are written once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

__all__ = [
    "EXTENT",
    "RIGHT",
    "Plot",
    "Table",
    "axis_of",
    "drawn",
    "log_domain",
    "named_colors",
    "no_plot",
    "specified",
    "step_axis",
    "ticks",
    "top_marks",
]

EXTENT = 64
"""Pixels of the vertical axis, in every plot of steps: the same step stands at the same place in all of them."""
SERIES = 6
"""Colours of curves in the style sheet."""
LEGEND = 340
"""Pixels for a row of a legend: what a telephone has."""
RIGHT = 16
"""Pixels right of it."""

Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of a table beside a plot.

    Attributes:
        head: of the columns.
        rows: cells as text.
        note: what is not in it.
        words: whether its cells are sentences, not numbers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    words: bool = False


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot, in words and in numbers too.

    Attributes:
        name: of its element.
        title: what it shows.
        caption: what to look for.
        remarks: what was seen in it, a sentence each: values that are not finite, above all.
        spec: Vega-Lite, without data; ``None`` where there is nothing to draw.
        data: rows by the name of their data set.
        height: in pixels, for the place to be kept.
        table: its numbers.
        missing: why there is no plot, in one sentence.
    """

    name: str
    title: str
    caption: str = ""
    remarks: Sequence[str] = ()
    spec: dict[str, Any] | None = None
    data: dict[str, Rows] = dataclasses.field(default_factory=dict)
    height: int = 0
    table: Table | None = None
    missing: str = ""


def no_plot(name: str, title: str, missing: str) -> Plot:
    """A plot that there is no data for."""
    return Plot(name, title, missing=missing)


def step_axis(steps: tuple[int, int]) -> alt.X:
    """The axis that all curves of one run share, from its first step to its last."""
    first, last = steps
    domain = [first, last] if last > first else [first - 0.5, first + 0.5]
    axis = alt.Axis(
        title="step", format=",d", tickMinStep=1, tickCount=8, labelFlush=True, labelOverlap="greedy", grid=False
    )
    if first == last:
        axis.values = [first]
    return alt.X("x:Q", scale=alt.Scale(domain=domain, nice=False), axis=axis)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers on a logarithmic axis: powers of ten, and 2 and 5 between them where there are few.

    Example:
        >>> ticks(0.003, 40.0), ticks(0.3, 4.0)
        ([0.01, 0.1, 1.0, 10.0], [0.5, 1.0, 2.0])
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [float(f"1e{decade}") for decade in decades if low <= float(f"1e{decade}") <= high]
    if len(tens) > 2:
        return tens[:: math.ceil(len(tens) / most)]
    finer = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    return [value for value in finer if low <= value <= high]


def axis_of(field: str, domain: Sequence[float] | None, *, log: bool = False, **axis: Any) -> alt.Y:
    """A vertical axis of the common width.

    Args:
        field: of the rows.
        domain: its ends; ``None``: round ones around the values.
        log: whether it is logarithmic; a domain is needed then.
        axis: how it looks otherwise.
    """
    looks: dict[str, Any] = {"format": ".4~g", "tickCount": 5, "labelOverlap": True, **axis}
    scale = alt.Scale(zero=False) if domain is None else alt.Scale(domain=list(domain), nice=False)
    if log and domain is not None:
        scale = alt.Scale(type="log", domain=list(domain), nice=False)
        looks |= {"values": ticks(domain[0], domain[-1])}
    return alt.Y(field, scale=scale, axis=alt.Axis(title=None, minExtent=EXTENT, maxExtent=EXTENT, **looks))


def log_domain(values: Iterable[float | None], least_spread: float) -> list[float] | None:
    """The ends of a logarithmic axis with room above and below; ``None`` where a linear one shows the values as well.

    Example:
        >>> log_domain([1.0, 2.0], 30), log_domain([1.0, 0.0, 100.0], 30), log_domain([1.0, None, 100.0], 30)
        (None, None, [0.8, 125.0])
    """
    usable = [value for value in values if value is not None]
    if not usable or min(usable) <= 0 or max(usable) / min(usable) < least_spread:
        return None
    return [max(min(usable) * 0.8, 5e-324), min(max(usable) * 1.25, 1e308)]


def named_colors(names: Sequence[str]) -> alt.Color:
    """The colour of each curve by its name, and a legend that fits a telephone; of a single curve none."""
    colors = [f"css(--series-{index % SERIES + 1})" for index in range(len(names))]
    letters = min(24, max(len(name) for name in names))
    legend = alt.Legend(
        title=None,
        orient="top",
        symbolType="stroke",
        symbolOpacity=1,
        symbolStrokeWidth=2,
        labelLimit=170,
        columns=max(1, LEGEND // (30 + 7 * letters)),
    )
    scale = alt.Scale(domain=list(names), range=colors)
    return alt.Color("name:N", scale=scale, legend=legend if len(names) > 1 else None)


def top_marks(name: str, steps: tuple[int, int]) -> alt.Chart:
    """Marks at the upper edge for values that have no height: NaN and infinities. Rows: ``x``, ``tip``."""
    marks = alt.Chart(alt.NamedData(name)).mark_point(
        shape="triangle-down", filled=True, size=60, color="css(--off)", opacity=0.9, clip=True
    )
    encoded: alt.Chart = marks.encode(x=step_axis(steps), y=alt.value(4), tooltip=alt.Tooltip("tip:N", title="is"))
    return encoded


def drawn(layers: Sequence[alt.Chart], height: int, unit: str) -> dict[str, Any]:
    """One plot of ``layers`` that takes the width of its place; later layers lie above.

    Args:
        layers: with the axes from here.
        height: in pixels.
        unit: what the vertical axis shows; it stands above the axis, where it is read without turning one's head.
    """
    return specified(alt.layer(*layers).properties(height=height), unit)


def specified(chart: Any, unit: str) -> dict[str, Any]:
    """``chart`` as Vega-Lite as wide as its place, its data left out."""
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    # Valid it is, as tests see to; to look again for each page would take half of its time.
    spec: dict[str, Any] = chart.properties(width="container", autosize=fit).to_dict(validate=False)
    for key in ("$schema", "config", "datasets"):
        spec.pop(key, None)
    # Right of the plot nothing may stand, or the steps of two plots would not lie below each other.
    spec["padding"] = {"left": 0, "top": 4, "bottom": 4, "right": RIGHT}
    if unit:
        spec["title"] = {"text": unit, "anchor": "start", "frame": "group"}
    return spec
