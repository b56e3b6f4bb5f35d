"""The traced model as a drawing, with the findings at the modules that they are about."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from lightning_tuning.findings import Finding
from lightning_tuning.reporters.html._blocks import Chart, Part
from lightning_tuning.reporters.html._layout import laid_out
from lightning_tuning.reporters.html._words import TIMES, plural, shortened

__all__ = ["HEIGHT", "WIDTH", "Badge", "Box", "Picture", "picture"]

WIDTH, HEIGHT = 224, 62
GAP_X, GAP_Y = 24, 30
MARGIN = 12
BADGE = 7.2
"""Pixels of a letter in a badge."""


@dataclasses.dataclass(frozen=True)
class Badge:
    """The findings at a box: ``text`` is drawn, ``title`` is read out, ``anchor`` is where the worst is told."""

    severity: str
    text: str
    title: str
    anchor: str
    width: int


@dataclasses.dataclass(frozen=True)
class Box:
    """A box, its upper left corner, its lines, and its badge if something was found there."""

    part: Part
    lines: Sequence[str]
    x: int
    y: int
    badge: Badge | None


@dataclasses.dataclass(frozen=True)
class Picture:
    """All that the template draws.

    Attributes:
        boxes: with their badges.
        paths: of arrows, as SVG has them.
        width: in pixels.
        height: in pixels.
        words: what the picture shows, for those who do not see it.
        left_out: arrows that are not drawn.
    """

    boxes: Sequence[Box]
    paths: Sequence[str]
    width: int
    height: int
    words: str
    left_out: int


def picture(chart: Chart, findings: Sequence[Finding], anchors: Mapping[int, str]) -> Picture:
    """Where everything is drawn.

    Args:
        chart: boxes and arrows.
        findings: worst first.
        anchors: of their elements, by place.
    """
    layout = laid_out(len(chart.parts), chart.arrows)
    homes = _homes(chart.parts, findings, anchors)
    boxes = []
    for index, (part, (across, layer)) in enumerate(zip(chart.parts, layout.boxes, strict=True)):
        x = round(MARGIN + across * (WIDTH + GAP_X) - (WIDTH + GAP_X) / 2 + GAP_X / 2)
        count = f" {TIMES}{part.count}" if part.count > 1 else ""
        kind = shortened(part.kind, 29 - len(count)) + count if part.name else ""
        lines = [line for line in (shortened(part.name or part.kind, 26), kind, shortened(part.note, 30)) if line]
        badge = _badge(homes[index], findings, anchors) if index in homes else None
        boxes.append(Box(part, lines, x, MARGIN + layer * (HEIGHT + GAP_Y), badge))
    paths = [_path([(MARGIN + x * (WIDTH + GAP_X), layer) for x, layer in points]) for points in layout.arrows]
    pinned = sum(len(members) for members in homes.values())
    words = (
        f"{plural(len(chart.parts), 'block')} from input at the top to the loss at the bottom, "
        f"{plural(len(chart.arrows), 'link')}, {plural(pinned, 'finding')} at {plural(len(homes), 'block')}."
    )
    width = 2 * MARGIN + layout.width * (WIDTH + GAP_X)
    height = 2 * MARGIN + layout.layers * (HEIGHT + GAP_Y) - GAP_Y
    return Picture(boxes, paths, round(width), round(height), words, layout.left_out)


def _homes(parts: Sequence[Part], findings: Sequence[Finding], anchors: Mapping[int, str]) -> dict[int, list[int]]:
    """The places of the findings by the box that shows the nearest module at or above what they are about."""
    box: dict[str, int] = {}
    for index, part in enumerate(parts):
        for module in part.modules:
            if module:
                box.setdefault(module, index)
    above: dict[str, int] = {}  # modules that contain boxes: a finding at `net` is shown at the first of `net.*`
    for module, index in box.items():
        path = module.rpartition(".")[0]
        while path:
            above.setdefault(path, index)
            path = path.rpartition(".")[0]
    homes: dict[int, list[int]] = {}
    for place, found in enumerate(findings):
        path = found.where
        while path and place in anchors:
            if path in box or path in above:
                homes.setdefault(box.get(path, above.get(path, 0)), []).append(place)
                break
            path = path.rpartition(".")[0]
    return homes


def _badge(members: Sequence[int], findings: Sequence[Finding], anchors: Mapping[int, str]) -> Badge:
    codes: dict[str, list[int]] = {}
    for place in members:
        codes.setdefault(findings[place].code, []).append(place)
    (code, places), *others = codes.items()
    text = (
        shortened(code, 8)
        + (f" {TIMES}{len(places)}" if len(places) > 1 else "")
        + (f" +{len(others)}" if others else "")
    )
    told = [
        f"{findings[some[0]].severity} {one} {findings[some[0]].name} at {findings[some[0]].where}"
        for one, some in codes.items()
    ]
    title = "; ".join(shortened(one, 160) for one in told[:5])
    return Badge(str(findings[places[0]].severity), text, title, anchors[places[0]], round(len(text) * BADGE) + 14)


def _path(points: Sequence[tuple[float, int]]) -> str:
    """A smooth line from the lower edge of the first box to the upper edge of the last."""

    def top(layer: int) -> float:
        return MARGIN + layer * (HEIGHT + GAP_Y)

    (x, layer), *rest = points
    y = top(layer) + HEIGHT
    drawn = [f"M{x:.0f} {y:.0f}"]
    for index, (to_x, to_layer) in enumerate(rest):
        to_y = top(to_layer)
        middle = (y + to_y) / 2
        drawn.append(f"C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {to_y:.0f}")
        if index < len(rest) - 1:  # past the boxes of a layer that it crosses
            drawn.append(f"V{to_y + HEIGHT:.0f}")
        x, y = to_x, to_y + HEIGHT
    return "".join(drawn)
