"""What the suite itself took: time and memory, whatever the names under which it was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from lightning_tuning.reporters.html._plot import Plot, Table, axis_of, drawn, named_colors, step_axis, top_marks
from lightning_tuning.reporters.html._thin import chunks
from lightning_tuning.reporters.html._words import NONE, clip, number
from lightning_tuning.reporters.run_record import Run, Sample

__all__ = ["cost_plots", "cost_sentence", "cost_table", "measured_in"]

WORDS = {
    "MB": ("Memory", "Of the whole process, the run's own with it: a line that rises on and on is a leak somewhere."),
    "%": ("Share of the time", "What the suite took of the time of a step."),
}
FEWEST = 3
"""Looks that make a curve."""
MOST = 8
HEIGHT = 120
UNITS = {
    "us_per_step": "µs per step",
    "ms_per_step": "ms per step",
    "us": "µs",
    "ms": "ms",
    "s": "s",
    "seconds": "s",
    "bytes": "bytes",
    "kb": "kB",
    "mb": "MB",
    "gb": "GB",
    "share": "%",
}
"""By the end of a name; the longest that fits. Shares are shown in percent."""


def measured_in(name: str) -> tuple[str, str]:
    """A name without its unit, and the unit.

    Example:
        >>> measured_in("ours_us_per_step"), measured_in("rss_mb"), measured_in("UpdateMonitor")
        (('ours', 'µs per step'), ('rss', 'MB'), ('UpdateMonitor', ''))
    """
    for end in sorted(UNITS, key=len, reverse=True):
        if name.endswith(f"_{end}"):
            return name.removesuffix(f"_{end}"), UNITS[end]
    return name, ""


def cost_table(run: Run) -> Table | None:
    """Each number over the run; ``None`` where there is none."""
    samples = run.samples.get("cost", ())
    rows = []
    for name in dict.fromkeys(name for sample in samples for name in sample.values):
        what, unit = measured_in(name)
        values = [_scaled(name, sample.values[name]) for sample in samples if name in sample.values]
        usable = [value for value in values if math.isfinite(value)]
        mean = number(math.fsum(value / len(usable) for value in usable)) if usable else NONE
        greatest = number(max(usable)) if usable else NONE
        rows.append([clip(what, 200), unit, mean, greatest, number(values[-1]), f"{len(values):,}"])
    return Table(["what", "unit", "mean", "greatest", "last", "looks"], rows) if rows else None


def cost_plots(run: Run, steps: tuple[int, int]) -> list[Plot]:
    """What was measured again and again, over the steps: one plot for each unit."""
    units: dict[str, list[str]] = {}
    samples = run.samples.get("cost", ())
    for name in dict.fromkeys(name for sample in samples for name in sample.values):
        if sum(name in sample.values for sample in samples) >= FEWEST:
            units.setdefault(measured_in(name)[1], []).append(name)
    return [
        _plot(f"cost-{index}", unit, names[:MOST], samples, steps) for index, (unit, names) in enumerate(units.items())
    ]


def _plot(name: str, unit: str, names: Sequence[str], samples: Sequence[Sample], steps: tuple[int, int]) -> Plot:
    rows: list[dict[str, Any]] = []
    off = []
    for one in names:
        what = measured_in(one)[0]
        curve = [(sample.step, _scaled(one, sample.values[one])) for sample in samples if one in sample.values]
        for step, value in (chunk[-1] for chunk in chunks(curve)):
            if math.isfinite(value):
                rows.append({"x": step, "y": value, "name": what})
            else:
                off.append({"x": step, "tip": f"{value}: {what}, step {step:,}"})
    tips = [
        alt.Tooltip("name:N", title="what"),
        alt.Tooltip("x:Q", title="step", format=",d"),
        alt.Tooltip("y:Q", title=unit or "value", format=".4~g"),
    ]
    lines = (
        alt.Chart(alt.NamedData("costs"))
        .mark_line(strokeWidth=1.75, point=alt.OverlayMarkDef(size=30))
        .encode(
            x=step_axis(steps),
            y=axis_of("y:Q", None),
            color=named_colors([measured_in(one)[0] for one in names]),
            tooltip=tips,
        )
    )
    title, caption = WORDS.get(unit, ("Time", "What the suite took, and the whole step where it was timed as well."))
    spec = drawn([lines, top_marks("off", steps)], HEIGHT, unit)
    return Plot(name, title, caption, (), spec, {"costs": rows, "off": off}, HEIGHT)


def _scaled(name: str, value: float) -> float:
    return 100 * value if measured_in(name)[1] == "%" else value


def cost_sentence(run: Run) -> str:
    """The share of a step that was ours, where both were measured.

    Example:
        >>> from pathlib import Path
        >>> from lightning_tuning.reporters.run_record import Sample
        >>> samples = {"cost": [Sample(9, {"ours_us_per_step": 130.0, "step_us": 2600.0})]}
        >>> cost_sentence(Run(Path(), {}, samples=samples))
        'The suite took 5 % of the time of a step (130 of 2,600 µs).'
    """
    for sample in reversed(run.samples.get("cost", ())):
        ours, step = _microseconds(sample.values, "ours"), _microseconds(sample.values, "step")
        if ours is not None and step:
            share = 100 * ours / step
            return f"The suite took {share:.2g} % of the time of a step ({number(ours)} of {number(step)} µs)."
    return ""


def _microseconds(values: Mapping[str, float], what: str) -> float | None:
    for end, factor in (("us_per_step", 1.0), ("ms_per_step", 1e3), ("us", 1.0), ("ms", 1e3), ("s", 1e6)):
        value = values.get(f"{what}_{end}")
        if value is not None and math.isfinite(value):
            return value * factor
    return None
