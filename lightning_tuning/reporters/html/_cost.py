"""What the suite itself took: time and memory, whatever the names under which it was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lightning_tuning.reporters.html._plot import Table
from lightning_tuning.reporters.html._words import NONE, clip, number
from lightning_tuning.reporters.run_record import Run

__all__ = ["cost_sentence", "cost_table", "measured_in"]

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
    "share": "of 1",
}
"""By the end of a name; the longest that fits. A name with none of them is in seconds, as callbacks' times are."""


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
        values = [sample.values[name] for sample in samples if name in sample.values]
        usable = [value for value in values if math.isfinite(value)]
        what, unit = measured_in(name)
        mean = number(math.fsum(value / len(usable) for value in usable)) if usable else NONE
        greatest = number(max(usable)) if usable else NONE
        rows.append([clip(what, 200), unit, mean, greatest, number(values[-1]), f"{len(values):,}"])
    return Table(["what", "unit", "mean", "greatest", "last", "looks"], rows) if rows else None


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
