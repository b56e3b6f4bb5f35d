"""Whether events come in a burst, or one by one as they did all along."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["Bursts"]

_LENGTH = 10
_FEWEST = 3
_SETTLE = 10
"""Steps at the start that nothing can be compared with yet, so that none is an event."""
_CHANCE = 1e-4


class Bursts:
    """Counts rare events among the steps of a run, and tells a burst from a rate.

    Gradients of heavy-tailed targets or of rare rewards have spikes of tens of medians at any time, and mean no harm;
    those of an explosion come together. A burst is three events or more among the last ten steps, if independent events
    at the rate before (of one more, in ten steps more) would be as many less than once in 10,000 times.

    Example:
        >>> calm, spiky = Bursts(), Bursts()
        >>> for step in range(1000):
        ...     if step % 20 == 0 or step >= 997:
        ...         spiky.add(step)
        ...     if step >= 997:
        ...         calm.add(step)
        >>> calm.is_on, spiky.is_on
        (True, False)
    """

    def __init__(self) -> None:
        self._events = 0
        self._recent: list[int] = []

    def add(self, step: int) -> None:
        """There was an event at ``step``, counted from 0."""
        self._events += 1
        self._recent = [*(recent for recent in self._recent if recent > step - _LENGTH), step]

    @property
    def is_on(self) -> bool:
        """Whether the event that came last belongs to a burst."""
        count = len(self._recent)
        if count < _FEWEST:
            return False
        rate = (1 + self._events - count) / max(_LENGTH, self._recent[-1] - _SETTLE)
        return _at_least(count, _LENGTH * rate) < _CHANCE

    def state_dict(self) -> list[list[int]]:
        """Plain types, safe under ``torch.load(weights_only=True)``."""
        return [[self._events], list(self._recent)]

    def load_state_dict(self, state: Sequence[Sequence[int]]) -> None:
        """Go on where the checkpoint left off."""
        (self._events,), self._recent = state[0], list(state[1])


def _at_least(count: int, expected: float) -> float:
    """The probability of ``count`` events or more where ``expected`` are (Poisson)."""
    fewer, term = 0.0, math.exp(-expected)
    for i in range(count):
        fewer += term
        term *= expected / (i + 1)
    return 1 - fewer
