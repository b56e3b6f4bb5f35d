"""Numbers by layer or parameter, handed on by whoever measures them to whoever keeps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

__all__ = ["Detail", "Details", "Kind"]

Kind = Literal["update_ratio", "dead_units", "saturated_units", "attention_entropy", "variance_shift"]
"""Of the numbers: what each is stands at the callback that measures it."""


class Detail(NamedTuple):
    """What a callback measured of each layer or parameter in one step.

    Attributes:
        kind: of the numbers.
        step: ``trainer.global_step``.
        epoch: ``trainer.current_epoch``.
        values: by the layer's or parameter's dotted name; numbers that have landed. NaN where there is none.
    """

    kind: Kind
    step: int
    epoch: int
    values: Mapping[str, float]


class Details:
    """Passes details on; owned by the :class:`Meter`, and empty where nobody listens.

    Whoever measures asks ``if details:`` before it puts values together, so that nothing is paid where nobody listens.

    Example:
        >>> details = Details()
        >>> bool(details)
        False
        >>> details.subscribe(print)
        >>> if details:
        ...     details.publish("dead_units", 200, 3, {"net.1": 0.25})
        Detail(kind='dead_units', step=200, epoch=3, values={'net.1': 0.25})
    """

    def __init__(self) -> None:
        self._listeners: list[Callable[[Detail], None]] = []

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def subscribe(self, receive: Callable[[Detail], None]) -> None:
        """Hand every detail to ``receive`` from now on, until :meth:`clear`."""
        if receive not in self._listeners:
            self._listeners.append(receive)

    def publish(self, kind: Kind, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Hand ``values`` to all who listen; see :class:`Detail`."""
        for receive in self._listeners:
            receive(Detail(kind, step, epoch, values))

    def clear(self) -> None:
        """Nobody listens any more."""
        self._listeners.clear()
