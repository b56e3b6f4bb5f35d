"""Where the losses of a recorded run ended, and how low they came."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from lightning_tuning.reporters.run_record import Block, Run

__all__ = ["LossEnds", "loss_ends", "steps_of"]

_PARTS = 20
"""Of a run's steps: the loss of a twentieth says little of its last batches, and enough of where it stood."""


@dataclasses.dataclass(frozen=True)
class LossEnds:
    """How far a loss came, in its own units.

    Attributes:
        final: at the end: of a training loss the mean over the last twentieth of the steps; NaN or infinite if one was.
        best: the lowest of these means, or of the values of a validation; NaN where none is finite.
        step: ``trainer.global_step`` of the best; ``None`` where there is none.
    """

    final: float
    best: float
    step: int | None


def loss_ends(run: Run) -> dict[str, LossEnds]:
    """The training loss as ``"training loss"``, and what was validated and has ``loss`` in its name; as recorded.

    Example:
        >>> from pathlib import Path
        >>> blocks = [Block(step, step, 0, loss=1 / (step + 1)) for step in range(40)]
        >>> loss_ends(Run(Path("run"), {}, blocks=blocks))["training loss"].step
        38
    """
    found = {}
    if points := _means([block for block in run.blocks if block.loss is not None]):
        found["training loss"] = _ends(points)
    series: dict[str, list[tuple[int, float]]] = {}
    for sample in run.samples.get("validation", ()):
        for name, value in sample.values.items():
            if "loss" in name.lower():
                series.setdefault(name, []).append((sample.step, value))
    return found | {name: _ends(points) for name, points in sorted(series.items())}


def steps_of(run: Run) -> int:
    """How many optimizer steps were recorded; 0 where none was."""
    return max((block.last_step + 1 for block in run.blocks), default=0)


def _ends(points: Sequence[tuple[int, float]]) -> LossEnds:
    finite = [point for point in points if math.isfinite(point[1])]
    step, best = min(finite, key=lambda point: point[1]) if finite else (None, math.nan)
    return LossEnds(points[-1][1], best, step)


def _means(blocks: Sequence[Block]) -> list[tuple[int, float]]:
    """The mean loss of each twentieth of the steps, with its first step."""
    share = sum(block.count for block in blocks) / _PARTS
    parts: list[list[Block]] = []
    seen = 0
    for block in blocks:
        if not parts or seen >= share * len(parts):
            parts.append([])
        parts[-1].append(block)
        seen += block.count
    return [
        (part[0].step, sum(float(b.loss or 0) * b.count for b in part) / sum(b.count for b in part)) for part in parts
    ]
