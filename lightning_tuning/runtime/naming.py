"""Names for the callbacks of one trainer."""

from __future__ import annotations

import weakref

__all__ = ["Names"]


class Names:
    """Gives each callback a name of its own: its class, numbered where there are several.

    Example:
        >>> class Guard: ...
        >>> names, first, second = Names(), Guard(), Guard()
        >>> names.of(first), names.of(second), names.of(first)
        ('Guard', 'Guard#1', 'Guard')
    """

    def __init__(self) -> None:
        self._holders: dict[str, weakref.ref[object]] = {}

    def of(self, callback: object) -> str:
        """The name of ``callback``, the same each time; that of one that is gone may be given again."""
        kind = type(callback).__qualname__
        number = 0
        while True:
            name = f"{kind}#{number}" if number else kind
            holder = self._holders.get(name)
            known = None if holder is None else holder()
            if known is None or known is callback:
                self._holders[name] = weakref.ref(callback)
                return name
            number += 1
