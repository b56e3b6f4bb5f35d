"""Layer by step: where in the net, and when."""

from __future__ import annotations

import math

from lightning_tuning.reporters.html._heat_drawing import colour_domain, dots, map_of, row_height
from lightning_tuning.reporters.html._kinds import MAPS, Kind
from lightning_tuning.reporters.html._layers import Grid, grid_of, labels
from lightning_tuning.reporters.html._plot import Plot, Table, no_plot
from lightning_tuning.reporters.html._words import NONE, clip, listed, number, plural, shortened, span
from lightning_tuning.reporters.run_record import Run

__all__ = ["heat_maps"]

ROWS = 1_000
"""Layers that are shown; a row of one pixel is none."""
FEW = 2
"""Looks that make no map: each layer is a line with a dot for each of them then."""


def heat_maps(run: Run) -> list[Plot]:
    """One map, or the reason why there is none, for each kind of number by layer."""
    return [_map(kind, run) for kind in MAPS]


def _map(kind: Kind, run: Run) -> Plot:
    grid = grid_of(run.samples.get(kind.kind, ()), run.model, log=kind.log)
    if not grid.layers or not grid.columns:
        return no_plot(kind.kind, kind.title, kind.missing if run.blocks else "No optimizer step was made.")
    remarks = _remarks(grid)
    if len(grid.layers) > ROWS:
        remarks.append(f"Shown are the first {ROWS:,} of {plural(len(grid.layers), 'row')}.")
        grid = Grid(grid.layers[:ROWS], grid.columns, grid.cells[:ROWS], grid.off[:ROWS])
    domain, log = colour_domain(kind, grid.values)
    draw = dots if len(grid.columns) <= FEW else map_of
    return Plot(
        kind.kind,
        kind.title,
        kind.caption,
        remarks,
        draw(kind, grid, domain, log=log),
        {
            "cells": [{"i": index, "v": [_plain(value) for value in row]} for index, row in enumerate(grid.cells)],
            "layers": [
                {"i": index, "n": clip(name, 200), "s": label}
                for index, (name, label) in enumerate(zip(grid.layers, labels(grid.layers), strict=True))
            ],
            "columns": [
                {"b": place, "x": first, "x2": behind, "at": span(first, last) + _looks(count)}
                for place, (first, behind, last, count) in enumerate(grid.columns, start=1)
            ],
        },
        row_height(grid) * len(grid.layers),
        _table(grid),
    )


def _plain(value: float | None) -> float | str | None:
    """A number as JSON has it, in the digits that a colour can show."""
    if value is None:
        return None
    return float(f"{value:.3g}") if math.isfinite(value) else str(value)


def _looks(count: int) -> str:
    return f", mean of {count} looks" if count > 1 else ""


def _remarks(grid: Grid) -> list[str]:
    off = [(name, count) for name, count in zip(grid.layers, grid.off, strict=True) if count]
    if not off:
        return []
    named = listed([shortened(name, 60) for name, _ in off], most=3)
    return [f"Not finite {plural(sum(count for _, count in off), 'time')}, at {named}: marked in magenta."]


def _table(grid: Grid) -> Table:
    rows = []
    for name, row, off in zip(grid.layers, grid.cells, grid.off, strict=True):
        values = [value for value in row if value is not None and math.isfinite(value)]
        shown = [values[0], min(values), max(values), values[-1]] if values else [NONE] * 4
        rows.append([clip(name, 200), *map(number, shown), f"{off:,}" if off else ""])
    return Table(["layer", "first", "least", "greatest", "last", "not finite"], rows)
