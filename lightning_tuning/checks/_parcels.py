"""Small tensors of several batches, sent to the host together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_tuning.measure import Landing

__all__ = ["Parcels"]

_BATCHES = 5

Receive = Callable[[list[list[float]]], None]


class Parcels:
    """Collects what a check measures at each batch, and sends it off every few batches as one copy.

    Nothing here waits for the device until :meth:`flush`. What is put in is copied as float32 at once, so the batch may
    be changed or freed; whole numbers beyond 2**24 lose digits.

    Example:
        >>> parcels = Parcels()
        >>> parcels.put([torch.tensor([1, 2])], print)
        >>> parcels.flush()
        [[1.0, 2.0]]
    """

    def __init__(self) -> None:
        self._landing = Landing()
        self._waiting: list[tuple[list[Tensor], Receive]] = []
        self._batches = 0

    def put(self, tensors: Sequence[Tensor], receive: Receive) -> None:
        """Have the values of ``tensors`` handed to ``receive`` some batches later, one list of floats for each."""
        self._waiting.append(([t.detach().to(torch.float32, copy=True).reshape(-1) for t in tensors], receive))

    def end_of_batch(self) -> None:
        """Send what has come together if it is time, and hand on what has landed."""
        self._batches += 1
        if self._batches % _BATCHES == 0:
            self._send()
        self._landing.collect()

    def flush(self) -> None:
        """Send and hand on everything. A device sync: for the end of an epoch or of the run."""
        self._send()
        self._landing.collect(wait=True)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        by_device: dict[torch.device, list[tuple[list[Tensor], Receive]]] = {}
        for tensors, receive in waiting:
            for tensor in tensors[:1]:
                by_device.setdefault(tensor.device, []).append((tensors, receive))
        for entries in by_device.values():
            self._landing.send([tensor for tensors, _ in entries for tensor in tensors], _distribute(entries))


def _distribute(entries: list[tuple[list[Tensor], Receive]]) -> Receive:
    sizes = [(len(tensors), receive) for tensors, receive in entries]

    def receive_all(numbers: list[list[float]]) -> None:
        start = 0
        for size, receive in sizes:
            receive(numbers[start : start + size])
            start += size

    return receive_all
