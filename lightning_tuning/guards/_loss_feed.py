"""The training losses of a run on the host: in order, the same on every rank, without a wait for the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_tuning.guards._ranks import several_ranks

__all__ = ["LossFeed", "Sent"]

_LATE = 2


class Sent(NamedTuple):
    """What is known of a batch beside its loss."""

    step: int
    lr: float
    scale: float = 1.0


class LossFeed:
    """Losses, averaged over the ranks, that arrive a fixed number of batches after they were sent.

    Fixed, where :class:`~lightning_tuning.measure.Landing` hands on whatever has arrived: whoever acts on a loss has to
    do so in the same batch on every rank, and in a repetition of the run.

    Price: with several ranks one all-reduce of two numbers per batch, not waited for by the host. On an accelerator
    a copy of them, read when the device has been given two more batches of work, so that it never runs dry. On one
    CPU nothing is late.

    Example:
        >>> feed = LossFeed()
        >>> feed.send(Sent(step=7, lr=0.1), torch.tensor(2.5), torch.device("cpu"))
        >>> feed.take()
        [(Sent(step=7, lr=0.1, scale=1.0), 2.5)]
    """

    def __init__(self) -> None:
        self._under_way: deque[tuple[Sent, Tensor | list[float], Callable[[], Any]]] = deque()
        self._late = 0

    def clear(self) -> None:
        """Forget what is under way; every rank must."""
        self._under_way.clear()

    def send(self, sent: Sent, loss: Tensor | None, device: torch.device) -> None:
        """Take the loss of a batch, or that it had none; with several ranks, every rank must call it."""
        together = several_ranks()
        self._late = _LATE if together or device.type != "cpu" else 0
        if not self._late:
            pair = [0.0, 0.0] if loss is None else [float(loss.detach().sum()), 1.0]
            self._under_way.append((sent, pair, _ready))
            return
        vector = torch.zeros(2, device=device)
        if loss is not None:
            own = loss.detach().sum().to(device, torch.float32)
            vector = torch.stack([own, torch.ones_like(own)])
        wait: Callable[[], Any] = _ready
        if together:
            wait = dist.all_reduce(vector, async_op=True).wait
        if not vector.is_cpu:
            wait()  # the device's queue does, not the host
            event = torch.get_device_module(vector.device).Event()
            vector = vector.to("cpu", non_blocking=True)
            event.record()
            wait = event.synchronize
        self._under_way.append((sent, vector, wait))

    def take(self, *, everything: bool = False) -> list[tuple[Sent, float]]:
        """The losses that are due; with ``everything``, those under way too (a device sync: for the end of a run)."""
        due = []
        while len(self._under_way) > (0 if everything else self._late):
            sent, pair, wait = self._under_way.popleft()
            wait()
            total, count = _floats(pair)
            if count:
                due.append((sent, total / count * sent.scale))
        return due

    def state_dict(self) -> list[list[float]]:
        """What is under way, as plain types. A device sync: for checkpoints."""
        for _, _, wait in self._under_way:
            wait()
        return [[*sent, *_floats(pair)] for sent, pair, _ in self._under_way]

    def load_state_dict(self, state: Sequence[Sequence[float]]) -> None:
        """Go on with it."""
        self._under_way = deque(
            (Sent(int(step), lr, scale), [total, count], _ready) for step, lr, scale, total, count in state
        )


def _ready() -> None:
    """Nothing to wait for."""


def _floats(pair: Tensor | list[float]) -> list[float]:
    return pair if isinstance(pair, list) else pair.tolist()
