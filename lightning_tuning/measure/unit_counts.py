"""Evidence on units and attentions, gathered look by look, and the same on every rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

__all__ = ["NUMBERS", "UnitCounts"]

NUMBERS = 4
"""Numbers that a layer may add up, whatever they are: those of :func:`attention_rows`, or a share and how many."""


class UnitCounts(Metric):
    """For each unit in how many looks it was silent, and in how many its parameter had a gradient; and sums by layer.

    The states are flat vectors of one length on every rank, whatever a rank's samples passed through, so that nothing
    that a sample decides can keep a rank from a collective.

    Args:
        units: how many each layer has that are counted one by one; 0 for a layer that only adds up numbers.
        several: the ranks of a process group add up.

    Example:
        >>> counts = UnitCounts([2])
        >>> for silent in (torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])):
        ...     counts.update({0: (silent, None, torch.tensor([3.0, 0.0, 0.0, 0.0]))})
        >>> counts.compute().tolist()
        [[1.0, 2.0, 6.0, 0.0, 0.0, 0.0]]
    """

    full_state_update = False
    silent: Tensor
    moved: Tensor
    looks: Tensor
    numbers: Tensor

    def __init__(self, units: Sequence[int], *, several: bool = False) -> None:
        super().__init__(dist_sync_fn=_gather, distributed_available_fn=lambda: several)
        self._units = list(units)
        total, layers = sum(units), len(units)
        for name, shape in (
            ("silent", (total,)), ("moved", (total,)), ("looks", (layers,)), ("numbers", (layers, NUMBERS)),
        ):  # fmt: skip
            self.add_state(name, torch.zeros(shape), dist_reduce_fx="sum")

    def update(self, seen: Mapping[int, tuple[Tensor | None, Tensor | None, Tensor]]) -> None:
        """Take one look.

        Args:
            seen: by index of the layer, of those that ran: which units were silent, which had a gradient (``None``: not
                known), and the layer's numbers. What is ``None`` counts as 0.
        """
        blank = self.silent.new_zeros
        silent, moved, numbers = [], [], []
        for index, count in enumerate(self._units):
            one, other, sums = seen.get(index, (None, None, None))
            silent.append(blank(count) if one is None else one.to(self.looks.device, non_blocking=True))
            moved.append(blank(count) if other is None else other.to(self.looks.device, non_blocking=True))
            numbers.append(blank(NUMBERS) if sums is None else sums.to(self.looks.device, non_blocking=True))
        self.silent = self.silent + torch.cat(silent)
        self.moved = self.moved + torch.cat(moved)
        self.numbers = self.numbers + torch.stack(numbers)
        self.looks = self.looks + torch.tensor([float(i in seen) for i in range(len(self._units))]).to(
            self.looks.device, non_blocking=True
        )

    def compute(self) -> Tensor:
        """A row for each layer: units silent in every look and never with a gradient; looks; sums of its numbers."""
        looks = torch.split(self.looks, 1)
        parts = zip(torch.split(self.silent, self._units), torch.split(self.moved, self._units), looks, strict=True)
        dead = [((silent >= look) & (moved == 0)).sum().float() * (look[0] > 0) for silent, moved, look in parts]
        return torch.cat([torch.stack(dead)[:, None], self.looks[:, None], self.numbers], dim=1)

    def counts(self) -> dict[str, Tensor]:
        """The states on the host, for a checkpoint. A device sync."""
        return {name: getattr(self, name).detach().cpu().clone() for name in self._defaults}

    def load_counts(self, counts: Mapping[str, Tensor]) -> None:
        """Go on with them; what does not fit is left out."""
        for name, default in self._defaults.items():
            if isinstance(default, Tensor) and counts[name].shape == default.shape:
                setattr(self, name, counts[name].to(getattr(self, name).device))


def _gather(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """Of every rank; torchmetrics' own asks for the shapes first, which waits for the device."""
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tensor.contiguous(), group=group)
    return parts
