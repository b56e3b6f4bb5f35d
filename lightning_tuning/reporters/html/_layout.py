"""Where the boxes of a flow chart stand: in layers from top to bottom, after Sugiyama et al. 1981.

1. Each box stands one layer below the lowest that it takes a value from.
2. An arrow over several layers gets a place in each that it crosses, so that no box stands on it.
3. In each layer places are ordered by the mean of what they are linked to above and below, to and fro.
4. Each is moved over what it is linked to, as far as its neighbours leave it room.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

__all__ = ["Layout", "laid_out"]

SWEEPS = 6
MOST_BENDS = 4_000
"""Places for arrows that cross layers; of a net that links everything with everything, longer arrows are left out."""

Arrow = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Places of boxes and arrows, in units of one box's width and one layer's height.

    Attributes:
        boxes: across (of the middle, 0 is the leftmost) and layer of each box.
        arrows: the points that each arrow goes through, its ends included.
        width: of all, in boxes.
        layers: how many.
        left_out: arrows that are not drawn.
    """

    boxes: Sequence[tuple[float, int]]
    arrows: Sequence[Sequence[tuple[float, int]]]
    width: float
    layers: int
    left_out: int = 0


def laid_out(count: int, arrows: Sequence[Arrow], lane: float = 0.1) -> Layout:
    """Places for ``count`` boxes.

    Args:
        count: of boxes, numbered in an order in which every arrow points ahead.
        arrows: from and to.
        lane: width that an arrow takes where it passes by, in boxes.

    Example:
        >>> layout = laid_out(3, [(0, 1), (1, 2), (0, 2)])
        >>> [layer for _, layer in layout.boxes], len(layout.arrows[2])
        ([0, 1, 2], 3)
    """
    layer = _layers(count, arrows)
    arrows, left_out = _affordable(arrows, layer)
    places: list[list[int]] = [[] for _ in range(max(layer, default=-1) + 1)]
    for box in range(count):
        places[layer[box]].append(box)
    links: dict[int, list[int]] = {box: [] for box in range(count)}
    paths = []
    for start, end in arrows:
        path = [start]
        for height in range(layer[start] + 1, layer[end]):
            path.append(len(links))
            links[len(links)] = []
            places[height].append(path[-1])
        path.append(end)
        paths.append(path)
        for above, below in itertools.pairwise(path):
            links[above].append(below)
            links[below].append(above)
    height_of = {place: height for height, row in enumerate(places) for place in row}
    _order(places, links, height_of)
    across = _across(places, links, height_of, {place: 1.0 if place < count else lane for place in links})
    left = min((across[place] - (0.5 if place < count else lane / 2) for place in links), default=0.0)
    right = max((across[place] + (0.5 if place < count else lane / 2) for place in links), default=0.0)
    return Layout(
        [(across[box] - left, layer[box]) for box in range(count)],
        [[(across[place] - left, height_of[place]) for place in path] for path in paths],
        right - left,
        len(places),
        left_out,
    )


def _layers(count: int, arrows: Sequence[Arrow]) -> list[int]:
    layer = [0] * count
    for start, end in sorted(arrows):
        layer[end] = max(layer[end], layer[start] + 1)
    return layer


def _affordable(arrows: Sequence[Arrow], layer: Sequence[int]) -> tuple[list[Arrow], int]:
    kept = set()
    bends = 0
    for start, end in sorted(arrows, key=lambda arrow: layer[arrow[1]] - layer[arrow[0]]):
        bends += layer[end] - layer[start] - 1
        if bends > MOST_BENDS:
            break
        kept.add((start, end))
    return [arrow for arrow in arrows if arrow in kept], len(arrows) - len(kept)


def _order(places: list[list[int]], links: Mapping[int, Sequence[int]], height_of: Mapping[int, int]) -> None:
    rank = {place: index for row in places for index, place in enumerate(row)}
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for height in range(len(places)) if down else reversed(range(len(places))):
            row = places[height]
            near = [[rank[other] for other in links[place] if (height_of[other] < height) is down] for place in row]
            middle = {
                place: sum(ranks) / len(ranks) if ranks else rank[place] for place, ranks in zip(row, near, strict=True)
            }
            row.sort(key=middle.__getitem__)
            rank.update({place: index for index, place in enumerate(row)})


def _across(
    places: Sequence[Sequence[int]],
    links: Mapping[int, Sequence[int]],
    height_of: Mapping[int, int],
    width: Mapping[int, float],
) -> dict[int, float]:
    across: dict[int, float] = {}
    for row in places:
        edge = -sum(width[place] for place in row) / 2
        for place in row:
            across[place] = edge + width[place] / 2
            edge += width[place]
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for height in range(len(places)) if down else reversed(range(len(places))):
            row = places[height]
            wanted = []
            for place in row:
                near = [across[other] for other in links[place] if (height_of[other] < height) is down]
                wanted.append(sum(near) / len(near) if near else across[place])
            across.update(zip(row, _apart(wanted, [width[place] for place in row]), strict=True))
    return across


def _apart(wanted: Sequence[float], width: Sequence[float]) -> list[float]:
    """The nearest places to those wanted that keep order and distance: pool adjacent violators."""
    offset = [0.0]
    for before, after in itertools.pairwise(width):
        offset.append(offset[-1] + (before + after) / 2)
    # Each pool: where it wants to be, its weight, and how many it is of. Boxes are wide, and give way to no arrow.
    pools: list[tuple[float, float, int]] = []
    for place, shift, weight in zip(wanted, offset, width, strict=False):
        pools.append((place - shift, weight**4, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (low, light, few), (high, heavy, more) = pools[-2:]
            pools[-2:] = [((low * light + high * heavy) / (light + heavy), light + heavy, few + more)]
    flat = [value for value, _, count in pools for _ in range(count)]
    return [value + shift for value, shift in zip(flat, offset, strict=False)]
