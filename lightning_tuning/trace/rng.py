"""The state of every random number generator that a training step may draw from."""

from __future__ import annotations

import ctypes
import random
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["RngState"]

_WORDS = 624
"""Of a Mersenne Twister's state, 4 bytes each; all are made anew when the last one was drawn."""

_BACKENDS: tuple[Any, ...] = (
    *((torch.cuda,) if torch.backends.cuda.is_built() else ()),  # type: ignore[no-untyped-call]
    *((torch.xpu,) if torch.xpu._is_compiled() else ()),
)
"""That this build of torch knows: one for the CPU alone has not to be asked at every step."""

_HAS_MPS = torch.backends.mps.is_available()

_MARK = 9
"""Words that tell whether a Mersenne Twister moved: its position and eight of its words."""


@dataclass(frozen=True, eq=False)
class RngState:
    """A snapshot of the global random number generators: torch's on every device in use, Python's and NumPy's.

    Taken at the start of a batch and restored before the step is run once more, it makes dropout, noise and
    augmentation draw the very same numbers. It is made to be taken at every step: the states stay as the libraries hand
    them out (``torch.cuda`` keeps its own on the host, so no device is waited for), and those that are slow to read,
    Python's and NumPy's, are read only if they moved. Measured on a CPU: 9 microseconds, where
    :func:`lightning.fabric.utilities.seed._collect_rng_states` took 80 to 150; some 50 at the start of a training step,
    when nothing of it is left in the caches.

    Generators that a model owns (``self.noise = torch.Generator()``) are not global and not in here.

    Attributes:
        cpu: state of torch's default generator.
        devices: of each accelerator's default generator, by device (``{"cuda:0": ...}``); only backends that were
            initialized.
        python: ``random.getstate()``.
        numpy: ``numpy.random.get_state(legacy=False)``; ``None`` where NumPy was not imported.

    Example:
        >>> import torch
        >>> state = RngState.capture()
        >>> first = torch.rand(3)
        >>> state.restore()
        >>> torch.equal(torch.rand(3), first)
        True
    """

    cpu: Tensor
    devices: dict[str, Tensor] = field(default_factory=dict)
    python: tuple[Any, ...] = field(default_factory=random.getstate)
    numpy: dict[str, Any] | None = None

    @classmethod
    def capture(cls) -> RngState:
        """The states as they are now. Draws nothing and changes nothing."""
        return cls(
            cpu=torch.default_generator.get_state(),
            devices=_device_states(),
            python=_python_state(),
            numpy=_numpy_state(),
        )

    def restore(self) -> None:
        """Put every generator back to where it was; devices that are not here any more are passed over."""
        torch.default_generator.set_state(self.cpu)
        for name, generator in _device_generators():
            if name in self.devices:
                generator.set_state(self.devices[name])
        random.setstate(self.python)
        if self.numpy is not None:
            import numpy as np  # noqa: PLC0415  # the state came from there, so it is installed

            np.random.set_state(self.numpy)  # noqa: NPY002  # the global generator is the point

    def state_dict(self) -> dict[str, Any]:
        """The snapshot in tensors and plain Python types, fit for a checkpoint read with ``weights_only=True``."""
        return {
            "cpu": self.cpu,
            "devices": dict(self.devices),
            "python": _plain(self.python),
            "numpy": _plain(self.numpy),
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> RngState:
        """The snapshot that :meth:`state_dict` wrote.

        Raises:
            ValueError: if ``state`` lacks one of its entries.
        """
        if missing := {"cpu", "devices", "python", "numpy"} - state.keys():
            raise ValueError(f"`state` must be what RngState.state_dict() returns; it lacks {sorted(missing)}")
        version, words, gauss = state["python"]
        return cls(state["cpu"], dict(state["devices"]), (version, tuple(words), gauss), state["numpy"])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RngState):
            return NotImplemented
        return (
            torch.equal(self.cpu, other.cpu)
            and self.devices.keys() == other.devices.keys()
            and all(torch.equal(state, other.devices[name]) for name, state in self.devices.items())
            and self.python == other.python
            and bool(_plain(self.numpy) == _plain(other.numpy))
        )

    __hash__ = None  # type: ignore[assignment]  # tensors inside


def _device_states() -> dict[str, Tensor]:
    """The states of :func:`_device_generators`; nearly always there are none, which has to be cheap to find out."""
    return {name: generator.get_state() for name, generator in _device_generators()} if _BACKENDS or _HAS_MPS else {}


def _device_generators() -> Iterator[tuple[str, torch.Generator]]:
    """The default generator of every accelerator that this process has initialized."""
    for backend in _BACKENDS:
        if backend.is_initialized():
            for index, generator in enumerate(backend.default_generators):
                yield f"{backend.__name__.removeprefix('torch.')}:{index}", generator
    if _HAS_MPS:
        yield "mps", torch.mps._get_default_mps_generator()


_python_seen: tuple[bytes, float | None, tuple[Any, ...]] | None = None


def _python_state() -> tuple[Any, ...]:
    """``random.getstate()``, read only where the last answer no longer holds.

    Making its tuple of 625 numbers costs some 30 microseconds, looking at the generator's memory under one.
    """
    global _python_seen  # noqa: PLW0603  # one global generator, one memory of it
    window = _python_window()
    if window is None:
        return random.getstate()
    mark, gauss = window.raw, random._inst.gauss_next  # type: ignore[attr-defined]
    if _python_seen is None or _python_seen[0] != mark or _python_seen[1] != gauss:
        _python_seen = mark, gauss, random.getstate()
    return _python_seen[2]


@cache
def _python_window() -> ctypes.Array[ctypes.c_char] | None:
    """The position and first words of Python's generator, which CPython keeps right behind the object's header.

    ``None`` where this interpreter lays it out otherwise: its memory must read as ``getstate`` says.
    """
    if sys.implementation.name != "cpython" or type(random._inst) is not random.Random:
        return None
    address = id(random._inst) + object.__basicsize__
    *words, position = random.getstate()[1]
    memory = ctypes.string_at(address, 4 * (1 + _WORDS))
    return _window(address) if struct.unpack(f"=i{_WORDS}I", memory) == (position, *words) else None


class _NumpySeen(NamedTuple):
    ask: Callable[[], Any]
    generator: Any  # held, lest its memory go to another
    window: ctypes.Array[ctypes.c_char]
    mark: bytes
    state: dict[str, Any]


_numpy_seen: _NumpySeen | None = None


def _numpy_state() -> dict[str, Any] | None:
    """``numpy.random.get_state(legacy=False)``, read only where the last answer no longer holds.

    Reading costs some 70 microseconds, looking at the generator's memory under one. The Twister's words do not tell
    whether the second of a pair of normal draws is still in store (``has_gauss``), so an answer that held one is not
    used again.
    """
    global _numpy_seen  # noqa: PLW0603  # one global generator, one memory of it
    seen = _numpy_seen
    if seen is not None and seen.ask() is seen.generator and seen.window.raw == seen.mark:
        return seen.state
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "random"):
        return None
    state: dict[str, Any] = numpy.random.get_state(legacy=False)
    ask: Callable[[], Any] = getattr(numpy.random, "get_bit_generator", _none)  # NumPy >= 1.24
    generator = ask()
    _numpy_seen = None
    if type(generator).__name__ == "MT19937" and not state["has_gauss"]:
        window = _window(generator.ctypes.state_address + 4 * (1 + _WORDS - _MARK))  # the position comes last
        _numpy_seen = _NumpySeen(ask, generator, window, window.raw, state)
    return state


def _none() -> None:
    """No generator that could be asked for."""


def _window(address: int) -> ctypes.Array[ctypes.c_char]:
    return (ctypes.c_char * (4 * _MARK)).from_address(address)


def _plain(value: Any) -> Any:
    """``value`` with arrays and tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
