"""Learning rates: those of the run beside those that its schedule was simulated to give."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from lightning_tuning.reporters.html._pins import pin_layers
from lightning_tuning.reporters.html._plot import (
    Plot,
    Table,
    axis_of,
    drawn,
    log_domain,
    named_colors,
    no_plot,
    step_axis,
    top_marks,
)
from lightning_tuning.reporters.html._thin import MOST, chunks, finite
from lightning_tuning.reporters.html._words import NONE, number, plural, shortened, span
from lightning_tuning.reporters.json_lines import as_number
from lightning_tuning.reporters.run_record import Run, Sample

__all__ = ["rate_plot", "simulated"]

LOG_FROM = 30
HEIGHT = 160
GROUPS = 12
"""Groups of parameters that are drawn; a legend of more is not read."""
SAME = 0.02
"""Rates that differ by less, as a share, are the same."""

REMARKS = 4

Curve = list[tuple[int, float]]
KINDS = {"actual": [1, 0], "simulated before the run": [5, 4]}


def simulated(schedule: object) -> dict[str, Curve]:
    """The simulated rates by group; empty where there are none, or of another form.

    Example:
        >>> simulated({"steps": [0, 10], "lr": {"SGD group 0": [0.1, 0.01]}})
        {'SGD group 0': [(0, 0.1), (10, 0.01)]}
        >>> simulated(None)
        {}
    """
    if not isinstance(schedule, Mapping):
        return {}
    steps, rates = schedule.get("steps"), schedule.get("lr")
    if not isinstance(steps, Sequence) or not isinstance(rates, Mapping):
        return {}
    try:
        curves = {
            str(name): [(int(step), as_number(value)) for step, value in zip(steps, values, strict=False)]
            for name, values in rates.items()
        }
    except (TypeError, ValueError):
        return {}
    return {name: [(step, value) for step, value in curve if value is not None] for name, curve in curves.items()}


def rate_plot(run: Run, steps: tuple[int, int]) -> Plot:
    """The learning rate of each group of parameters, and what it was going to be."""
    samples = run.samples.get("lr", ())
    names = list(dict.fromkeys(name for sample in samples for name in sample.values))
    actual = {name: _thinned(samples, name) for name in names}
    planned = simulated(run.info.get("schedule"))
    everyone = list(dict.fromkeys([*actual, *planned]))
    if not everyone:
        return no_plot("rates", "Learning rates", "No learning rate was recorded.")
    rows: list[dict[str, Any]] = []
    off = []
    for name in everyone[:GROUPS]:
        for kind, curve in zip(KINDS, (actual.get(name, []), planned.get(name, [])), strict=True):
            for step, value in curve:
                if math.isfinite(value):
                    rows.append({"x": step, "y": value, "name": name, "kind": kind})
                else:
                    off.append({"x": step, "tip": f"{name}, {kind}: {value}, step {step:,}"})
    remarks = [
        _comparison(name, actual[name], planned[name]) for name in everyone if actual.get(name) and name in planned
    ]
    if len(remarks) > REMARKS:
        remarks[REMARKS:] = [f"Of {plural(len(remarks) - REMARKS, 'more group')} see the table."]
    if len(everyone) > GROUPS:
        remarks.append(f"Drawn are the first {GROUPS} of {len(everyone)} groups of parameters.")
    if off:
        remarks.append(f"Not finite {plural(len(off), 'time')}; marked at the upper edge.")
    caption = "The rate that each group of parameters had, as it was read now and then."
    if planned:
        caption += (
            " Dashed is what its schedule, simulated before the run, was going to give: where the two part, something "
            "else set the rate, or the schedule was stepped on another clock."
        )
    drawing = _drawing(everyone[:GROUPS], rows, steps, both=bool(planned))
    table = Table(
        ["group", "first", "least", "greatest", "last"],
        [_row(name, actual.get(name) or planned[name]) for name in everyone],
    )
    return Plot("rates", "Learning rates", caption, remarks, drawing, {"rates": rows, "off": off}, HEIGHT, table)


def _drawing(names: list[str], rows: list[dict[str, Any]], steps: tuple[int, int], *, both: bool) -> dict[str, Any]:
    domain = log_domain((row["y"] for row in rows), LOG_FROM)
    log = domain is not None
    dashes = alt.Scale(domain=list(KINDS), range=list(KINDS.values()))
    lone = len({row["x"] for row in rows}) < 3
    lines = (
        alt.Chart(alt.NamedData("rates"))
        .mark_line(
            interpolate="step-after", strokeWidth=1.75, clip=True, point=alt.OverlayMarkDef(size=40) if lone else False
        )
        .encode(
            x=step_axis(steps),
            y=axis_of("y:Q", domain, log=log, format=".2~e"),
            color=named_colors(names),
            strokeDash=alt.StrokeDash("kind:N", scale=dashes, legend=None),
            tooltip=[
                alt.Tooltip("name:N", title="group"),
                alt.Tooltip("kind:N", title="rate"),
                alt.Tooltip("x:Q", title="step", format=",d"),
                alt.Tooltip("y:Q", title="learning rate", format=".4~g"),
            ],
        )
    )
    unit = f"learning rate{', log scale' if log else ''}{'; dashed: simulated' if both else ''}"
    return drawn([lines, top_marks("off", steps), *pin_layers(steps)], HEIGHT, unit)


def _thinned(samples: Sequence[Sample], name: str) -> Curve:
    """The points at which a rate changes; of many, evenly chosen ones and the last."""
    curve = [(sample.step, sample.values[name]) for sample in samples if name in sample.values]
    inner = zip(curve, curve[1:], curve[2:], strict=False)
    turns = [here for (_, before), here, (_, after) in inner if not before == here[1] == after]
    kept = [*curve[:1], *turns, *curve[1:][-1:]]
    return list(dict.fromkeys([*(chunk[0] for chunk in chunks(kept, MOST)), *kept[-1:]]))


def _comparison(name: str, actual: Curve, planned: Curve) -> str:
    steps = [step for step, _ in planned]
    if not steps:
        return ""
    # Between two simulated steps any rate of the two is right: a schedule that is thinned says no more.
    for step, value in actual:
        place = bisect_right(steps, step)
        if step > steps[-1]:
            break  # nothing was simulated there
        near = [rate for _, rate in planned[max(0, place - 2) : place + 2] if math.isfinite(rate)]
        if near and math.isfinite(value) and not min(near) * (1 - SAME) <= value <= max(near) * (1 + SAME):
            meant = planned[max(0, place - 1)][1]
            times = f", {value / meant:.3g} times that" if finite(meant) and meant else ""
            rates = f"{number(value)} instead of {number(meant)}{times}"
            return f"{shortened(name, 60)} leaves its schedule at {span(step)}: {rates}."
    return f"{shortened(name, 60)} followed its schedule."


def _row(name: str, curve: Curve) -> list[str]:
    values = [value for _, value in curve]
    usable = [value for value in values if math.isfinite(value)]
    least, greatest = (number(min(usable)), number(max(usable))) if usable else (NONE, NONE)
    return [name, number(values[0]), least, greatest, number(values[-1])] if values else [name, *[NONE] * 4]
