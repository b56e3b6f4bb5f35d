"""Loss and gradient norm over the steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import altair as alt

from lightning_tuning.reporters.html._lines import (
    Line,
    line_table,
    off_remarks,
    readings,
    training_lines,
    validation_lines,
)
from lightning_tuning.reporters.html._pins import pin_layers
from lightning_tuning.reporters.html._plot import (
    Plot,
    axis_of,
    drawn,
    log_domain,
    named_colors,
    no_plot,
    step_axis,
    top_marks,
)
from lightning_tuning.reporters.html._thin import chunks, finite
from lightning_tuning.reporters.html._words import plural, span
from lightning_tuning.reporters.run_record import Run

__all__ = ["clipping_plot", "gradient_plot", "loss_plot", "steps_of"]

LOG_FROM = 30
"""The greatest value over the least from which on a plot is logarithmic."""
HEIGHT = 220
WIDE = 900
"""Pixels of a plot in a wide window."""


def steps_of(run: Run) -> tuple[int, int]:
    """The first and the last step of a run's axis."""
    seen = [step for block in run.blocks for step in (block.step, block.last_step)]
    seen += [sample.step for kind in ("lr", "validation") for sample in run.samples.get(kind, ())]
    return (min(seen), max(seen)) if seen else (0, 0)


def loss_plot(run: Run, steps: tuple[int, int]) -> Plot:
    """Training loss, with the range it had, and the validation losses."""
    lines = [*training_lines(run.blocks, "loss", "training"), *validation_lines(run)]
    if not lines:
        return no_plot("loss", "Loss", "No loss was recorded: no optimizer step was made.")
    caption = (
        "Lines are means, the band around each reaches from the least to the greatest value. Look for a training loss "
        "that stays level, leaps, or falls on while the validation loss rises."
    )
    return _curves(Plot("loss", "Loss", caption), "loss", lines, steps, _made(run))


def gradient_plot(run: Run, steps: tuple[int, int]) -> Plot:
    """Gradient norms, and the one to which they are clipped."""
    lines = training_lines(run.blocks, "grad_norm", "mean")
    if not lines:
        return no_plot("gradient", "Gradient norm", "No gradient norm was recorded.")
    thresholds = [
        {"x": block.step, "y": block.clip}
        for chunk in chunks([block for block in run.blocks if finite(block.clip)])
        for block in chunk[:1]
    ]
    caption = (
        "Global L2 norm over all parameters, before clipping; the band reaches up to the greatest norm. Look for "
        "spikes that the loss follows, a steady rise, or norms that fade to nothing."
    )
    caption += " The dashed line is the norm to which gradients are clipped." if thresholds else ""
    frame = Plot("gradient", "Gradient norm", caption, data={"clip": thresholds} if thresholds else {})
    return _curves(frame, "L2 norm of the gradient", lines, steps, _made(run))


def clipping_plot(run: Run, steps: tuple[int, int]) -> Plot:
    """The share of steps whose gradient was clipped."""
    measured = [block for block in run.blocks if finite(block.clipped)]
    if not measured:
        return no_plot("clipping", "Clipped steps", "Nobody clips gradients in this run.")
    total = sum(block.count for block in measured)
    clipped = sum((block.clipped or 0.0) * block.count for block in measured)
    if not clipped:
        return no_plot("clipping", "Clipped steps", f"None of {plural(total, 'step')} was clipped.")
    rows = []
    for chunk in chunks(measured, 60):
        count = sum(block.count for block in chunk)
        share = sum((block.clipped or 0.0) * block.count for block in chunk) / max(1, count)
        at = span(chunk[0].step, chunk[-1].last_step)
        rows.append({"x": chunk[0].step, "x2": chunk[-1].last_step + 1, "y": share, "tip": f"{share:.0%}, {at}"})
    bars = (
        alt.Chart(alt.NamedData("clipped"))
        .mark_rect(color="css(--series-1)", opacity=0.6, clip=True)
        .encode(
            x=step_axis(steps),
            x2="x2:Q",
            y=axis_of("y:Q", (0, 1), format="%", tickCount=2),
            y2=alt.datum(0),
            tooltip=alt.Tooltip("tip:N", title="clipped"),
        )
    )
    return Plot(
        "clipping",
        "Clipped steps",
        "Clipping is for the few steps whose gradient is far larger than usual: where it is the rule, the threshold "
        "sets the learning rate.",
        [f"{clipped / max(1, total):.0%} of {plural(total, 'step')} were clipped."],
        drawn([bars, *pin_layers(steps)], 80, "share of steps"),
        {"clipped": rows},
        80,
    )


def _made(run: Run) -> int:
    return sum(block.count for block in run.blocks)


def _curves(frame: Plot, unit: str, lines: Sequence[Line], steps: tuple[int, int], made: int) -> Plot:
    """``frame`` with ``lines`` in it, and with the threshold if it has one among its data."""
    rows: list[dict[str, Any]] = []
    off = []
    heights: list[float | None] = []
    for line in lines:
        for point in line.points:
            if point.mean is not None:
                rows.append({"x": point.middle, "y": point.mean, "lo": point.low, "hi": point.high, "name": line.name})
                heights += [point.low, point.high]
            if point.off:
                at = span(point.step, point.last_step)
                off.append({"x": point.middle, "tip": f"{point.off_words}: {line.name}, {at}"})
    heights += [row["y"] for row in frame.data.get("clip", ())]
    domain = log_domain(heights, LOG_FROM)
    log = domain is not None
    said = readings(lines, steps)
    color = named_colors([line.name for line in lines])
    base = alt.Chart(alt.NamedData("points")).encode(x=step_axis(steps), color=color)
    y = axis_of("y:Q", domain, log=log)
    # A line of one point is none, and of two it is easily missed: the only validation of a run that was killed.
    short = {line.name for line in lines if len(line.points) < 3}
    few = [row for row in rows if row["name"] in short]
    dots = alt.Chart(alt.NamedData("few")).mark_point(filled=True, size=40, opacity=1)
    layers = [
        base.mark_area(opacity=0.18, line=False).encode(y=axis_of("lo:Q", domain, log=log), y2="hi:Q"),
        base.mark_line(strokeWidth=1.75, clip=True).encode(y=y),
        *([dots.encode(x=step_axis(steps), color=color, y=y)] if few else []),
        *([_threshold(steps, domain)] if frame.data else []),
        _reading(steps, len(said)),
        top_marks("off", steps),
        *pin_layers(steps),
    ]
    return dataclasses.replace(
        frame,
        remarks=off_remarks(lines, made),
        spec=drawn(layers, HEIGHT, f"{unit}, log scale" if log else unit),
        data={
            **frame.data,
            "points": rows,
            "few": few,
            "off": off,
            "readings": said,
        },
        height=HEIGHT,
        table=line_table(lines),
    )


def _threshold(steps: tuple[int, int], domain: Sequence[float] | None) -> Any:
    line = alt.Chart(alt.NamedData("clip")).mark_line(
        interpolate="step-after", strokeDash=[6, 4], strokeWidth=1.5, color="css(--muted)"
    )
    tip = alt.Tooltip("y:Q", title="clipped to", format=".4~g")
    return line.encode(x=step_axis(steps), y=axis_of("y:Q", domain, log=domain is not None), tooltip=tip)


def _reading(steps: tuple[int, int], places: int) -> Any:
    """What the pointer meets, so that it need not hit a line: at each place a rule, which is seen while it is met."""
    met = alt.selection_point(name="met", on="pointerover", fields=["x"], empty=False, clear="pointerout")
    rules = alt.Chart(alt.NamedData("readings")).mark_rule(
        strokeWidth=max(2, WIDE // max(1, places)), color="css(--muted)", clip=True
    )
    seen = alt.when(met).then(alt.value(0.25)).otherwise(alt.value(0))
    return rules.encode(x=step_axis(steps), opacity=seen, tooltip="tip:N").add_params(met)
