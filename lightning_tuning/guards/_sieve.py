"""A sampler without the indices that are in quarantine: as many batches, every other sample at its place."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, KeysView
from typing import Any

from torch import Tensor

from lightning_tuning.guards._recorder import Through
from lightning_tuning.guards._samples import indices_of

__all__ = ["Sieve"]


Indices = set[int] | KeysView[int]


class Sieve(Through):
    """Draws what ``inner`` draws, less the indices in ``bad``; one draw for each of ``inner``'s.

    A draw is filled up again with good indices where it must: an only index is replaced, a batch keeps two at least if
    it had two (batch norm fails on one), and all of them if their number was promised. What fills it was drawn before
    in the same epoch, or stands in the same batch, or else is looked for ahead: no other index of the dataset is taken,
    for the sampler may leave some out on purpose (a validation split). Nothing random is drawn for it.

    Args:
        inner: the sampler or batch sampler.
        bad: indices to leave out; may grow at any time, draws that were made before it are not recalled.
        keep_size: the number of a batch's samples was promised (``drop_last``).

    Example:
        >>> list(Sieve([[0, 1, 2], [3, 4], [5]], bad={1, 3, 5}, keep_size=False))
        [[0, 2], [2, 4], [4]]
        >>> list(Sieve([[0, 1, 2], [3, 4, 5]], bad={1, 3}, keep_size=True))
        [[0, 2, 2], [2, 4, 5]]
    """

    def __init__(self, inner: Any, bad: Indices, *, keep_size: bool) -> None:
        super().__init__(inner)
        self._bad, self._keep_size = bad, keep_size

    def __iter__(self) -> Iterator[Any]:
        return _Sifting(iter(self._inner), self._bad, keep_size=self._keep_size)


class _Sifting(Through):
    def __init__(self, inner: Iterator[Any], bad: Indices, *, keep_size: bool) -> None:
        super().__init__(inner)
        self._bad, self._keep_size = bad, keep_size
        self._ahead: deque[Any] = deque()
        self._before: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        draw = self._ahead.popleft() if self._ahead else next(self._inner)
        if not self._bad:
            return draw
        indices = indices_of(draw)
        if indices is None:
            return draw
        good = indices
        if not self._bad.isdisjoint(indices):
            good = tuple(index for index in indices if index not in self._bad)
            draw = self._sifted(draw, indices, good)
        self._before = good or self._before
        return draw

    def _sifted(self, draw: Any, indices: tuple[int, ...], good: tuple[int, ...]) -> Any:
        missing = max(0, (len(indices) if self._keep_size else min(2, len(indices))) - len(good))
        others = self._before or good or self._good_ahead()
        if missing and not others:
            return draw  # nothing good is left in the epoch
        fill = [others[-1 - i % len(others)] for i in range(missing)]
        kept = [fill.pop(0) if index in self._bad and fill else index for index in indices]
        return _like(draw, [index for index in kept if index not in self._bad])

    def _good_ahead(self) -> tuple[int, ...]:
        """Good indices of the next draw that has some; the draws come later, in their order."""
        for draw in itertools.chain(tuple(self._ahead), self._inner_ahead()):
            if good := tuple(index for index in indices_of(draw) or () if index not in self._bad):
                return good
        return ()

    def _inner_ahead(self) -> Iterator[Any]:
        for draw in self._inner:
            self._ahead.append(draw)
            yield draw


def _like(draw: Any, indices: list[int]) -> Any:
    """``indices`` as a draw of the same type."""
    if isinstance(draw, Tensor):
        return draw.new_tensor(indices if draw.ndim else indices[0])
    if getattr(draw, "ndim", 0) and hasattr(draw, "dtype"):
        import numpy as np  # noqa: PLC0415  # the draw is one of its arrays, so it is installed

        return np.asarray(indices, dtype=draw.dtype)
    if isinstance(draw, list | tuple):
        return tuple(indices) if isinstance(draw, tuple) else indices
    return indices[0]
