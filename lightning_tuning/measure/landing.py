"""Bring the numbers of a step to the host without making the host wait for the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Landing"]

Receive = Callable[[list[list[float]]], None]


class Landing:
    """A queue of small tensors on their way from the device to the host, first in first out.

    On an accelerator the tensors of one :meth:`send` are joined into a single float32 vector and copied non-blocking
    into pinned memory; they are handed on by the first :meth:`collect` that finds the copy finished, so no step ever
    waits. On the CPU they are handed on by the next :meth:`collect`.

    Example:
        >>> landing = Landing()
        >>> landing.send([torch.tensor(2.5), torch.tensor([1.0, 4.0])], print)
        >>> landing.collect()
        [[2.5], [1.0, 4.0]]
    """

    def __init__(self) -> None:
        self._under_way: deque[tuple[Tensor | list[list[float]], Any, list[int], Receive]] = deque()

    def __len__(self) -> int:
        return len(self._under_way)

    def send(self, tensors: Sequence[Tensor], receive: Receive) -> None:
        """Start the journey of ``tensors`` (0-d or 1-d, one device); ``receive`` gets one list of floats for each."""
        if all(t.is_cpu for t in tensors):
            numbers = [t.tolist() if t.dim() else [t.item()] for t in tensors]
            self._under_way.append((numbers, None, [], receive))
            return
        sizes = [t.numel() for t in tensors]
        accelerator = next(t.device for t in tensors if t.device.type != "cpu")
        vector = torch.cat([t.detach().reshape(-1).to(accelerator, torch.float32, non_blocking=True) for t in tensors])
        # The one copy from the device: `to` with non_blocking allocates pinned memory, the event says when it has
        # arrived.
        host = vector.to("cpu", non_blocking=True)
        event = torch.get_device_module(accelerator).Event()
        event.record()
        self._under_way.append((host, event, sizes, receive))

    def collect(self, *, wait: bool = False) -> None:
        """Hand on what has arrived, in the order of sending.

        Args:
            wait: also wait for what has not: a device sync, for the end of a run and for checkpoints only.
        """
        while self._under_way:
            numbers, event, sizes, receive = self._under_way[0]
            if event is not None and not event.query():
                if not wait:
                    return
                event.synchronize()
            self._under_way.popleft()
            receive(numbers if isinstance(numbers, list) else [part.tolist() for part in torch.split(numbers, sizes)])

    def hand_on(self) -> None:
        """Hand on what lies on the host, up to the first that is under way; asks no device."""
        while self._under_way and self._under_way[0][1] is None:
            numbers, _, _, receive = self._under_way.popleft()
            receive(numbers)  # type: ignore[arg-type]  # only a device's are a tensor

    def clear(self) -> None:
        """Forget what is under way."""
        self._under_way.clear()
