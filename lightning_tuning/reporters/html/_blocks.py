"""A traced model in few enough blocks to be seen at a glance: what belongs together, what repeats."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from lightning_tuning.reporters.html._words import NONE, TIMES, compact
from lightning_tuning.reporters.run_record import ModelMap, Node

__all__ = ["Chart", "Part", "charted", "overview"]

GLANCE = 28
"""Boxes that are taken in without scrolling far."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One box of the picture.

    Attributes:
        name: path of the module, ``"encoder.0"``, or of the first and the last of those that are alike.
        kind: class of the module, or what it is made of.
        note: shape and size.
        modules: paths of all modules in it.
        count: how many that are alike stand for one.
    """

    name: str
    kind: str
    note: str
    modules: tuple[str, ...]
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Chart:
    """Boxes and the arrows between them, from and to, each from an earlier box to a later one."""

    parts: Sequence[Part]
    arrows: Sequence[tuple[int, int]]


def charted(model: ModelMap) -> Chart:
    """Every block of the model as a box.

    Example:
        >>> chart = charted(ModelMap((Node("net.0", "Linear", ("linear",), (2, 3), 9), Node("", "loss")), ((0, 1),)))
        >>> [(part.name, part.kind, part.note) for part in chart.parts]
        [('net.0', 'Linear', '2×3 · 9 weights'), ('', 'loss', '')]
    """
    parts = [Part(node.module, node.kind, _note(node), (node.module,)) for node in model.nodes]
    return Chart(parts, sorted({(start, end) for start, end in model.edges if start < end}))


def overview(model: ModelMap, most: int = GLANCE) -> Chart:
    """The model in at most ``most`` boxes where it can be had: by the deepest level of modules at which it fits.

    Neighbours that are alike, as the layers of a transformer are, become one box with a count first.

    Example:
        >>> nodes = [Node(f"layers.{index}.{name}", "Linear") for index in range(40) for name in ("a", "b")]
        >>> chart = overview(ModelMap(tuple(nodes), tuple((index, index + 1) for index in range(79))))
        >>> [(part.name, part.count, len(part.modules)) for part in chart.parts]
        [('layers.0–39', 40, 80)]
    """
    if len(model.nodes) <= most:
        return charted(model)
    deepest = max((node.module.count(".") + 1 for node in model.nodes), default=1)
    chart = charted(model)
    for depth in range(deepest, 0, -1):
        runs = _repeats(_at_depth(model.nodes, depth), model.nodes)
        chart = _joined(model, runs)
        if len(chart.parts) <= most:
            break
    return chart


Run = list[tuple[str, list[int]]]
"""Blocks that are alike: of each its path, and the places of its nodes."""


def _at_depth(nodes: Sequence[Node], depth: int) -> list[tuple[str, list[int]]]:
    """Nodes that follow each other in one module of that depth, together."""
    groups: list[tuple[str, list[int]]] = []
    for place, node in enumerate(nodes):
        path = ".".join(node.module.split(".")[:depth])
        if groups and path and groups[-1][0] == path:
            groups[-1][1].append(place)
        else:
            groups.append((path, [place]))
    return groups


def _repeats(groups: Sequence[tuple[str, list[int]]], nodes: Sequence[Node]) -> list[Run]:
    """Neighbouring groups that differ in the number in their path alone, together."""
    runs: list[Run] = []
    before = None
    for path, places in groups:
        form = (re.sub(r"\d+", "#", path), tuple((nodes[place].kind, nodes[place].operations) for place in places))
        if form == before and re.search(r"\d", path):
            runs[-1].append((path, places))
        else:
            runs.append([(path, places)])
        before = form
    return runs


def _joined(model: ModelMap, runs: Sequence[Run]) -> Chart:
    parts = []
    box: dict[int, int] = {}
    for index, run in enumerate(runs):
        members = [place for _, places in run for place in places]
        box.update(dict.fromkeys(members, index))
        first, last = run[0][0], run[-1][0]
        one = [model.nodes[place] for place in run[0][1]]
        everyone = [model.nodes[place] for place in members]
        kinds = list(dict.fromkeys(node.kind for node in one))
        parameters = sum(node.parameters for node in everyone)
        note = _note(dataclasses.replace(everyone[-1], parameters=parameters))
        name = first if len(run) == 1 else _range(first, last)
        kind = ", ".join(kinds[:3]) + (", …" if len(kinds) > 3 else "")
        parts.append(Part(name, kind, note, tuple(node.module for node in everyone), len(run)))
    arrows = {(box[start], box[end]) for start, end in model.edges}
    return Chart(parts, sorted((start, end) for start, end in arrows if start < end))


def _range(first: str, last: str) -> str:
    """Two paths that differ in their numbers alone, as one: ``"layers.0–39.ff"``."""
    pieces = zip(re.split(r"(\d+)", first), re.split(r"(\d+)", last), strict=True)
    return "".join(one if one == other else f"{one}{NONE}{other}" for one, other in pieces)


def _note(node: Node) -> str:
    shape = TIMES.join(str(size) for size in node.shape)
    size = f"{compact(node.parameters)} weights" if node.parameters else ""
    return " · ".join(word for word in (shape, size) if word)
