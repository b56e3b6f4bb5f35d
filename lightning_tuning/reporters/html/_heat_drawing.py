"""How a map of layers by steps is drawn: as cells, or as dots where there were only a look or two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from lightning_tuning.reporters.html._kinds import Kind
from lightning_tuning.reporters.html._layers import Grid
from lightning_tuning.reporters.html._plot import specified, ticks

__all__ = ["colour_domain", "dots", "map_of", "row_height"]

TALLEST = 620
"""Pixels of a map's rows; 200 layers get three each, and their names by the pointer."""
ROW = 18
LINE = 13
"""Pixels from one name of a layer to the next that can be read."""
LABEL = 170
"""Pixels for the names of layers, at most; a telephone has some 400 in all."""
LETTER = 6.6
DEEPEST = 1e6
"""The greatest over the least value that colours tell apart: one tiny value would take the colours from all others."""


def row_height(grid: Grid) -> int:
    """Pixels of a row."""
    return max(3, min(ROW, TALLEST // max(1, len(grid.layers))))


def colour_domain(kind: Kind, values: Sequence[float]) -> tuple[list[float], bool]:
    """The five values at which the five colours stand, and whether the scale between them is logarithmic.

    Example:
        >>> from lightning_tuning.reporters.html._kinds import MAPS
        >>> colour_domain(MAPS[0], [1.0])
        ([1e-05, 0.0001, 0.001, 0.01, 0.1], True)
    """
    positive = [value for value in values if value > 0]
    log = kind.log and bool(positive or kind.domain)
    if kind.domain is not None:
        low, high = kind.domain[0], kind.domain[-1]
    elif log:
        high = max(positive)
        low = max(min(positive), high / DEEPEST)
    else:
        low, high = min(values, default=0.0), max(values, default=1.0)
    if not low < high:
        low, high = (low / 2, low * 2) if log else (low - 0.5, low + 0.5)
    if log:
        return [float(f"{math.exp(math.log(low) + place / 4 * math.log(high / low)):.6g}") for place in range(5)], True
    return [low + (high - low) * place / 4 for place in range(5)], False


def map_of(kind: Kind, grid: Grid, domain: Sequence[float], *, log: bool) -> dict[str, Any]:
    """One cell for each layer and look, as wide as until the next look."""
    first, last = grid.columns[0][0], grid.columns[-1][1]
    step = alt.Axis(
        title="step",
        format=",d",
        tickMinStep=1,
        tickCount=8,
        labelFlush=True,
        labelOverlap="greedy",
        labelSeparation=8,
    )
    scale = alt.Scale(
        type="log" if log else "linear",
        domain=list(domain),
        range=[f"css(--{kind.ramp}-{place})" for place in range(1, 6)],
        clamp=True,
        interpolate="lab",
    )
    legend = alt.Legend(
        title=None,
        orient="top",
        gradientLength=220,
        values=_legend_values(domain, log=log),
        format=".1~e" if log and domain[-1] / domain[0] > 1e3 else ".2~g",
    )
    cells = (
        _cells(domain, log=log)
        .mark_rect(stroke=None)
        .encode(
            x=alt.X("x:Q", scale=alt.Scale(domain=[first, last], nice=False), axis=step),
            x2="x2:Q",
            y=_rows(grid),
            color=alt.condition("datum.off", alt.value("css(--off)"), alt.Color("c:Q", scale=scale, legend=legend)),
            tooltip=_tips(),
        )
    )
    unit = f"{kind.unit}, log scale" if log else kind.unit
    spec = specified(cells.properties(height=row_height(grid) * len(grid.layers)), unit)
    spec["title"]["frame"] = "bounds"  # names of layers may leave too little room right of them in a narrow window
    return spec


def dots(kind: Kind, grid: Grid, domain: Sequence[float], *, log: bool) -> dict[str, Any]:
    """One dot for each layer and look, on an axis of the values; a line where the best of a two-way scale is."""
    values = [*grid.values, domain[0], domain[-1]]
    low, high = min(value for value in values if value > 0 or not log), max(values)
    axis = alt.Axis(title=None, orient="bottom", labelOverlap=True, format=".4~g", tickCount=6)
    if log:
        axis.values = ticks(low, high)
    scale = alt.Scale(type="log" if log else "linear", domain=[low, high], nice=False, clamp=True, padding=8)
    looks = [column[0] for column in grid.columns]
    marks = (
        _cells(domain, log=log)
        .mark_point(filled=True, size=70, opacity=0.9)
        .encode(
            x=alt.X("c:Q", scale=scale, axis=axis),
            y=_rows(grid),
            color=alt.condition("datum.off", alt.value("css(--off)"), alt.value("css(--series-1)")),
            shape=alt.Shape(
                "x:N",
                scale=alt.Scale(domain=looks, range=["circle", "diamond"][: len(looks)]),
                legend=alt.Legend(title="step", orient="top", symbolFillColor="css(--series-1)") if looks[1:] else None,
            ),
            tooltip=_tips(),
        )
    )
    layers = [marks]
    if kind.ramp == "two-way":
        best = alt.Chart(alt.NamedData("layers")).transform_filter("datum.i === 0")
        layers.insert(0, best.mark_rule(color="css(--muted)", strokeDash=[4, 3]).encode(x=alt.datum(domain[2])))
    return specified(
        alt.layer(*layers).properties(height=row_height(grid) * len(grid.layers)),
        f"{kind.unit}, log scale" if log else kind.unit,
    )


def _cells(domain: Sequence[float], *, log: bool) -> alt.Chart:
    """Rows of a layer's values as cells, with names and steps beside them; 0 lies at the lower end of a log scale."""
    least = domain[0] if log else -math.inf
    shown = f"max(datum.v, {least!r})" if log else "datum.v"
    cells: alt.Chart = (
        alt.Chart(alt.NamedData("cells"))
        .transform_flatten(["v"])
        .transform_window(b="row_number()", groupby=["i"])
        .transform_filter("datum.v !== null")
        .transform_lookup("b", alt.LookupData(alt.NamedData("columns"), "b", ["x", "x2", "at"]))
        .transform_lookup("i", alt.LookupData(alt.NamedData("layers"), "i", ["n"]))
        .transform_calculate(
            off="isString(datum.v)",
            said="isString(datum.v) ? datum.v : format(datum.v, '.3~g')",
            c=f"isString(datum.v) ? {domain[-1]!r} : {shown}",
        )
    )
    return cells


def _rows(grid: Grid) -> alt.Y:
    every = math.ceil(LINE / row_height(grid))
    room = min(LABEL, 24 + LETTER * max(len(name) for name in grid.layers))
    axis = alt.Axis(
        title=None,
        labelLimit=room - 8,
        minExtent=room,
        maxExtent=room,
        values=list(range(0, len(grid.layers), every)),
        labelExpr="data('layers')[datum.value].s",
        labelOverlap=False,
        ticks=False,
        domain=False,
    )
    return alt.Y("i:O", scale=alt.Scale(domain=list(range(len(grid.layers))), padding=0), axis=axis)


def _tips() -> list[alt.Tooltip]:
    named = {"n:N": "layer", "at:N": "at", "said:N": "value"}
    return [alt.Tooltip(field, title=title) for field, title in named.items()]


def _legend_values(domain: Sequence[float], *, log: bool) -> list[float]:
    if log and domain[-1] / domain[0] >= 100:
        return ticks(domain[0] * (1 - 1e-9), domain[-1] * (1 + 1e-9), most=5)
    return [domain[0], domain[2], domain[-1]]
