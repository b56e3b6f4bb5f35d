"""Numbers by layer and step, as the rows and columns of a map."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

from lightning_tuning.reporters.html._thin import chunks
from lightning_tuning.reporters.html._words import shortened
from lightning_tuning.reporters.run_record import ModelMap, Sample

__all__ = ["Grid", "grid_of", "in_order", "labels"]

COLUMNS = 60
"""Looks that are told apart; of more, neighbours share a column."""


LABEL = 22
"""Letters of a name that have room beside a map."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """A map.

    Attributes:
        layers: names of the rows, in the order of the model.
        columns: of each, its first step, the first step behind it, the last look in it, and how many there were.
        cells: by row and column; ``None`` where the layer was not looked at. Not finite where any look was not.
        off: looks that were not finite, by row.
    """

    layers: Sequence[str]
    columns: Sequence[tuple[int, int, int, int]]
    cells: Sequence[Sequence[float | None]]
    off: Sequence[int]

    @property
    def values(self) -> list[float]:
        """All that can be drawn."""
        return [value for row in self.cells for value in row if value is not None and math.isfinite(value)]


def grid_of(samples: Sequence[Sample], model: ModelMap | None, *, log: bool, most: int = COLUMNS) -> Grid:
    """The map of ``samples``.

    Args:
        samples: of one kind, in order.
        model: whose order the rows have.
        log: means of what shares a cell are geometric.
        most: columns.

    Example:
        >>> grid = grid_of([Sample(0, {"b": 1.0, "a": 4.0}), Sample(9, {"a": 1.0})], None, log=True, most=1)
        >>> grid.layers, grid.columns, grid.cells
        (['b', 'a'], [(0, 18, 9, 2)], [[1.0], [2.0]])
    """
    layers = in_order(list(dict.fromkeys(name for sample in samples for name in sample.values)), model)
    steps = sorted({sample.step for sample in samples})
    groups = list(chunks(steps, most))
    usual = (steps[-1] - steps[0]) // (len(steps) - 1) if len(steps) > 1 else 1
    starts = [group[0] for group in groups] + [steps[-1] + max(1, usual)] if steps else []
    columns = [
        (start, end, group[-1], len(group)) for start, end, group in zip(starts, starts[1:], groups, strict=False)
    ]
    place = {step: index for index, group in enumerate(groups) for step in group}
    found: dict[tuple[str, int], list[float]] = {}
    for sample in samples:
        for name, value in sample.values.items():
            found.setdefault((name, place[sample.step]), []).append(value)
    cells = [[_mean(found.get((name, column), ()), log=log) for column in range(len(columns))] for name in layers]
    off = [
        sum(not math.isfinite(value) for column in range(len(columns)) for value in found.get((name, column), ()))
        for name in layers
    ]
    return Grid(layers, columns, cells, off)


def _mean(values: Sequence[float], *, log: bool) -> float | None:
    for value in values:
        if not math.isfinite(value):
            return value
    if not values:
        return None
    if log and min(values) > 0:
        return math.exp(math.fsum(math.log(value) for value in values) / len(values))
    return math.fsum(value / len(values) for value in values)


def in_order(names: Sequence[str], model: ModelMap | None) -> list[str]:
    """Modules and parameters in the order in which their modules ran; those of none behind, as they came.

    Example:
        >>> from lightning_tuning.reporters.run_record import Node
        >>> in_order(["head.bias", "net.1.weight"], ModelMap((Node("net.1", "Linear"), Node("head", "Linear")), ()))
        ['net.1.weight', 'head.bias']
    """
    ran: dict[str, int] = {}
    for place, node in enumerate(model.nodes if model else ()):
        if node.module:
            ran.setdefault(node.module, place)

    def rank(name: str) -> int:
        while name:
            if name in ran:
                return ran[name]
            name = name.rpartition(".")[0]
        return len(ran) + len(names) if ran else 0

    return sorted(names, key=rank)


def labels(names: Sequence[str], most: int = LABEL) -> list[str]:
    """Names short enough to stand beside a map, and still told apart.

    Where they are long, without the modules that they all begin with; of those that are too long even then, the numbers
    in their path and their end.

    Example:
        >>> labels(["encoder.layers.0.ff.weight", "encoder.layers.11.self_attn.out_proj.weight"])
        ['…0.ff.weight', '…11…out_proj.weight']
    """
    if max(map(len, names), default=0) > most and len(names) > 1:
        columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
        if shared:
            names = [f"…{'.'.join(name.split('.')[shared:])}" for name in names]
    return [name if len(name) <= most else _ends(name, most) for name in names]


def _ends(name: str, most: int) -> str:
    path = name.removeprefix("…").split(".")
    for kept in (2, 1):
        numbers = [piece for piece in path[:-kept] if piece.isdigit()]
        told = f"…{'.'.join(numbers)}…{'.'.join(path[-kept:])}"
        if numbers and len(told) <= most:
            return told
    return shortened(name, most)
