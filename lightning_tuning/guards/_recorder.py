"""A recorder in the place of a loader's sampler: what was drawn last."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from lightning_tuning.guards._samples import SampleIndices

__all__ = ["Opener", "Recorder", "Through"]


class Through:
    """Stands for ``inner``: what is not defined here is asked there."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # not there yet while it is unpickled
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __len__(self) -> int:
        return len(self._inner)


class Recorder(Through):
    """A sampler that remembers the last ``depth`` things it gave.

    Example:
        >>> recorder = Recorder([[0, 1], [2, 3], [4]], depth=2)
        >>> list(recorder), list(recorder.drawn)
        ([[0, 1], [2, 3], [4]], [(2, 3), (4,)])
    """

    def __init__(self, inner: Any, depth: int) -> None:
        super().__init__(inner)
        self.drawn: deque[Any] = deque(maxlen=depth)

    def __iter__(self) -> Iterator[Any]:
        self.drawn.clear()
        return _Recording(iter(self._inner), self.drawn)


class _Recording(Through):
    def __init__(self, inner: Iterator[Any], drawn: deque[Any]) -> None:
        super().__init__(inner)
        self._drawn = drawn

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        draw = next(self._inner)
        self._drawn.append(tuple(draw) if type(draw) is list else draw)  # a list may be changed by whoever gets it
        return draw


class Opener:
    """``DataLoader._get_iterator`` of one loader, that has a recorder in its sampler's place meanwhile.

    The loader refuses another sampler, and whoever looks at it should find his own: only the iterator keeps the
    recorder. A copy of the loader, and one that was pickled, opens plainly.
    """

    def __init__(self, loader: DataLoader[Any], samples: SampleIndices) -> None:
        self.loader = loader
        self.samples: SampleIndices | None = samples
        self.shadowed: Any = vars(loader).get("_get_iterator")

    @classmethod
    def enter(cls, loader: DataLoader[Any], samples: SampleIndices) -> None:
        """Open ``loader`` from now on, once."""
        now = vars(loader).get("_get_iterator")
        if not (isinstance(now, cls) and now.samples is samples):
            vars(loader)["_get_iterator"] = cls(loader, samples)

    @classmethod
    def leave(cls, loader: DataLoader[Any], samples: SampleIndices) -> None:
        """Let it open itself again, as soon as others who watch it have left too."""
        top = layer = vars(loader).pop("_get_iterator", None)
        while isinstance(layer, cls):
            layer.samples = None if layer.samples is samples else layer.samples
            layer = layer.shadowed
        while isinstance(top, cls) and top.samples is None:
            top = top.shadowed
        if top is not None:
            vars(loader)["_get_iterator"] = top

    def __call__(self) -> Any:
        place = vars(self.loader)
        name = "sampler" if self.loader.batch_sampler is None else "batch_sampler"
        if self.samples is None or name not in place:  # a property of a subclass
            return self._open()
        own = place[name]
        place[name] = self.samples.sampler(self.loader, own)
        try:
            return self._open()
        finally:
            place[name] = own

    def _open(self) -> Any:
        return type(self.loader)._get_iterator(self.loader) if self.shadowed is None else self.shadowed()

    def __getstate__(self) -> dict[str, Any]:
        return {"loader": self.loader, "samples": None, "shadowed": self.shadowed}
