"""The states of the host's random number generators, read only where they moved.

At the start of a training step, when nothing of it is left in the caches, reading one costs 10 to 100 microseconds, and
looking at a few bytes of its memory one or two. An answer holds until those bytes are others. Where a library is laid
out in another way than is known here, it is asked every time.
"""

from __future__ import annotations

import ctypes
import random
import struct
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    Window = ctypes.Array[ctypes.c_char]

__all__ = ["Watch", "cpu_state", "numpy_state", "python_state"]

_WORDS = 624
"""Of a Mersenne Twister's state, 4 bytes each; all are made anew when the last one was drawn."""

_MARK = 9
"""Words that tell whether a Mersenne Twister moved: its position and eight of its words."""

_HEAD = 20
"""Bytes before the words of torch's: seed (8), draws left (4), whether it was seeded (4), position (4)."""

_TAIL = 28
"""Bytes behind them: padding (4), a normal number that is left in store as a float (8) and as a double (16)."""

_STATE = 5056
"""Bytes of torch's own answer."""

_cpu_seen: tuple[bytes, bytes, Tensor] | None = None


def cpu_state() -> Tensor:
    """``torch.default_generator.get_state()``; the same tensor until the generator moves."""
    global _cpu_seen  # noqa: PLW0603  # one global generator, one memory of it
    windows = _cpu_windows()
    if windows is None:
        return torch.default_generator.get_state()
    head, tail = windows[0].raw, windows[1].raw
    seen = _cpu_seen
    if seen is None or seen[0] != head or seen[1] != tail:
        _cpu_seen = seen = head, tail, torch.default_generator.get_state()
    return seen[2]


@cache
def _cpu_windows() -> tuple[Window, Window] | None:
    """The head and first words of torch's generator, and what is behind the words.

    ``None`` where this torch lays it out otherwise: the memory of another such generator must read as its ``get_state``
    says, before and after a normal draw.
    """
    generator = torch.Generator("cpu").manual_seed(2**40 + 1)
    own, address = _address_of(generator), _address_of(torch.default_generator)
    if own is None or address is None:
        return None
    at = ctypes.string_at(own, 256).find(struct.pack("=Qi", 2**40 + 1, 1))  # it is ten times as long
    if at < 0:
        return None
    if generator.get_state().numel() != _STATE:
        return None
    for draws in range(2):
        tensor = generator.get_state()
        state = ctypes.string_at(tensor.data_ptr(), tensor.numel())
        _, left, seeded, position = struct.unpack_from("=QiiQ", state)
        words = struct.unpack_from(f"={_WORDS}Q", state, 24)
        stored, is_stored = struct.unpack_from("=d8xi", state, 24 + 8 * _WORDS + 8)
        memory = ctypes.string_at(own + at, _HEAD + 4 * _WORDS + _TAIL)
        if struct.unpack_from(f"=i?3xI{_WORDS}I", memory, 8) != (left, bool(seeded), position, *words):
            return None
        number, is_number = struct.unpack_from("=d?", memory, _HEAD + 4 * _WORDS + 12)
        if not draws == is_stored == is_number or (draws and number != stored):
            return None
        torch.randn(1, generator=generator, device="cpu")
    return _window(address + at, _HEAD + 4 * _MARK), _window(address + at + _HEAD + 4 * _WORDS, _TAIL)


def _address_of(generator: torch.Generator) -> int | None:
    return getattr(generator, "_cdata", None)


_python_seen: tuple[bytes, float | None, tuple[Any, ...]] | None = None


def python_state() -> tuple[Any, ...]:
    """``random.getstate()``; the same tuple until the generator moves."""
    global _python_seen  # noqa: PLW0603  # one global generator, one memory of it
    window = _python_window()
    if window is None:
        return random.getstate()
    mark, gauss = window.raw, random._inst.gauss_next  # type: ignore[attr-defined]
    seen = _python_seen
    if seen is None or seen[0] != mark or seen[1] != gauss:
        _python_seen = seen = mark, gauss, random.getstate()
    return seen[2]


@cache
def _python_window() -> Window | None:
    """The position and first words of Python's generator, which CPython keeps right behind the object's header.

    ``None`` where this interpreter lays it out otherwise: its memory must read as ``getstate`` says.
    """
    if sys.implementation.name != "cpython" or type(random._inst) is not random.Random:
        return None
    address = id(random._inst) + object.__basicsize__
    *words, position = random.getstate()[1]
    memory = ctypes.string_at(address, 4 * (1 + _WORDS))
    return _window(address, 4 * _MARK) if struct.unpack(f"=i{_WORDS}I", memory) == (position, *words) else None


class _NumpySeen(NamedTuple):
    owner: Any  # of the global generator
    generator: Any  # held, lest its memory go to another
    window: Window
    mark: bytes
    state: dict[str, Any]


_numpy_seen: _NumpySeen | None = None


def numpy_state() -> dict[str, Any] | None:
    """``numpy.random.get_state(legacy=False)``, the same dictionary until the generator moves; ``None`` without NumPy.

    An answer that held the second of a pair of normal draws (``has_gauss``) is not used again: see :func:`cpu_state`.
    """
    global _numpy_seen  # noqa: PLW0603  # one global generator, one memory of it
    seen = _numpy_seen
    if seen is not None and seen.owner._bit_generator is seen.generator and seen.window.raw == seen.mark:
        return seen.state
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "random"):
        return None
    state: dict[str, Any] = numpy.random.get_state(legacy=False)
    owner = getattr(numpy.random.mtrand, "_rand", None)
    generator: Any = getattr(owner, "_bit_generator", None)  # `get_bit_generator()` costs 7 us in a step
    _numpy_seen = None
    if type(generator).__name__ == "MT19937" and not state["has_gauss"]:
        window = _window(generator.ctypes.state_address + 4 * (1 + _WORDS - _MARK), 4 * _MARK)  # the position is last
        _numpy_seen = _NumpySeen(owner, generator, window, window.raw, state)
    return state


class Watch(NamedTuple):
    """Tells whether all three generators stand where they stood, at two thirds of the price of asking each.

    Example:
        >>> answers = cpu_state(), python_state(), numpy_state()
        >>> watch = Watch.of_last_answers()
        >>> watch is None or watch.holds()  # none, where one of them would have to be asked again anyway
        True
    """

    views: list[memoryview]
    marks: list[bytes]
    gauss: float | None
    owner: Any
    generator: Any

    @classmethod
    def of_last_answers(cls) -> Watch | None:
        """For what the three functions have just answered; ``None`` if one of these answers is not to be used again."""
        cpu, python, numpy = _cpu_windows(), _python_window(), _numpy_seen
        if cpu is None or python is None or numpy is None or _cpu_seen is None or _python_seen is None:
            return None
        views = [memoryview(window).cast("B") for window in (*cpu, python, numpy.window)]
        marks = [*_cpu_seen[:2], _python_seen[0], numpy.mark]
        return cls(views, marks, _python_seen[1], numpy.owner, numpy.generator)

    def holds(self) -> bool:
        """No generator has moved, and none was put into another's place."""
        return (
            self.views == self.marks
            and random._inst.gauss_next == self.gauss  # type: ignore[attr-defined]
            and self.owner._bit_generator is self.generator
        )


def _window(address: int, size: int) -> Window:
    return (ctypes.c_char * size).from_address(address)
