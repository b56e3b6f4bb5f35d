"""The curves of a run by name, thinned; and what is said of values in them that are not finite."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from lightning_tuning.reporters.html._plot import Table
from lightning_tuning.reporters.html._thin import MOST, Point, chunks, points
from lightning_tuning.reporters.html._words import NONE, listed, number, plural, span
from lightning_tuning.reporters.run_record import Block, Run

__all__ = ["Line", "line_table", "off_remarks", "readings", "training_lines", "validation_lines"]

TABLE_ROWS = 12
VALIDATION = 4
"""Validation losses that are drawn beside the training loss."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve: its name in the legend, and its points."""

    name: str
    points: Sequence[Point]


def training_lines(blocks: Sequence[Block], field: str, word: str) -> list[Line]:
    """One line for each optimizer, called ``word``; those without a point are left out.

    Example:
        >>> blocks = [Block(0, 0, 0, optimizer=0, loss=1.0), Block(1, 1, 0, optimizer=1, loss=2.0)]
        >>> [line.name for line in training_lines(blocks, "loss", "training")]
        ['training, optimizer 0', 'training, optimizer 1']
    """
    indices = sorted({block.optimizer for block in blocks}, key=lambda index: -1 if index is None else index)
    lines = [
        Line(
            word if len(indices) == 1 else f"{word}, optimizer {'unknown' if index is None else index}",
            points([block for block in blocks if block.optimizer == index], field),
        )
        for index in indices
    ]
    return [line for line in lines if line.points]


def validation_lines(run: Run) -> list[Line]:
    """The first metrics of validation that are called a loss."""
    samples = run.samples.get("validation", ())
    metrics = dict.fromkeys(name for sample in samples for name in sample.values)
    # What training logged is among them too; of that there is a line already, with every step in it.
    names = [name for name in metrics if "loss" in name.lower() and not name.lower().startswith("train")]
    lines = []
    for name in names[:VALIDATION]:
        blocks = [Block(one.step, one.step, 0, loss=one.values[name]) for one in samples if name in one.values]
        lines.append(Line(name, points(blocks, "loss")))
    return lines


def off_remarks(lines: Sequence[Line], steps: int) -> list[str]:
    """What is said of the values that are not finite, one sentence for each curve that has any.

    Args:
        lines: the curves.
        steps: that the run made.

    Example:
        >>> off_remarks([Line("training", [Point(3, 3, None, None, None, off=1, off_words="nan")])], steps=8)
        ['training: nan at 1 of 8 steps (step 3), marked at the upper edge.']
    """
    said = []
    for line in lines:
        off = [point for point in line.points if point.off]
        if off:
            words = listed(list(dict.fromkeys(word for point in off for word in point.off_words.split(", "))))
            where = listed(_joined(off), most=3)
            least = "at least " if any(point.last_step - point.step + 1 > point.off for point in off) else ""
            count = sum(point.off for point in off)
            said.append(
                f"{line.name}: {words} at {least}{count:,} of {plural(steps, 'step')} ({where}), marked at the upper "
                "edge."
            )
    return said


def _joined(off: Sequence[Point]) -> list[str]:
    spans: list[tuple[int, int]] = []
    for point in off:
        if spans and point.step <= spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], point.last_step)
        else:
            spans.append((point.step, point.last_step))
    return [span(first, last) for first, last in spans]


def readings(lines: Sequence[Line], steps: tuple[int, int]) -> list[dict[str, Any]]:
    r"""What the pointer is told at each place of the axis: all curves there, in one text of several lines.

    Example:
        >>> readings([Line("training", [Point(3, 3, 1.5, 1.5, 1.5)])], (0, 9))
        [{'x': 3.0, 'tip': 'step 3\ntraining 1.5'}]
    """
    width = max(1, steps[1] - steps[0]) / MOST
    places: dict[int, list[tuple[str, Point]]] = {}
    for line in lines:
        for point in line.points:
            places.setdefault(int((point.middle - steps[0]) / width), []).append((line.name, point))
    rows = []
    for _, told in sorted(places.items()):
        points = [point for _, point in told]
        at = span(min(point.step for point in points), max(point.last_step for point in points))
        rows.append(
            {"x": points[0].middle, "tip": "\n".join([at, *(f"{name} {_value(point)}" for name, point in told)])}
        )
    return rows


def _value(point: Point) -> str:
    if point.mean is None or point.low is None or point.high is None:
        return point.off_words
    ends = f" ({number(point.low)} to {number(point.high)})" if point.low < point.high else ""
    return f"{number(point.mean)}{ends}{f', once {point.off_words}' if point.off else ''}"


def line_table(lines: Sequence[Line]) -> Table:
    """The curves in few rows: what each was in some steps on end."""
    rows = []
    for line in lines:
        for chunk in chunks(line.points, max(2, TABLE_ROWS // len(lines))):
            low = [point.low for point in chunk if point.low is not None]
            high = [point.high for point in chunk if point.high is not None]
            means = [point.mean for point in chunk if point.mean is not None]
            off = sum(point.off for point in chunk)
            rows.append(
                [
                    line.name,
                    span(chunk[0].step, chunk[-1].last_step),
                    number(sum(value / len(means) for value in means)) if means else NONE,
                    number(min(low)) if low else NONE,
                    number(max(high)) if high else NONE,
                    f"{off:,}" if off else "",
                ]
            )
    return Table(["curve", "steps", "mean", "least", "greatest", "not finite"], rows)
