"""The state of every random number generator that a training step may draw from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_tuning.trace._rng_windows import Watch, cpu_state, numpy_state, python_state

__all__ = ["RngState"]

_BACKENDS: tuple[Any, ...] = (
    *((torch.cuda,) if torch.backends.cuda.is_built() else ()),  # type: ignore[no-untyped-call]
    *((torch.xpu,) if torch.xpu._is_compiled() else ()),
)
"""That this build of torch knows: one for the CPU alone has not to be asked at every step."""

_HAS_MPS = torch.backends.mps.is_available()


@dataclass(frozen=True, eq=False)
class RngState:
    """A snapshot of the global random number generators: torch's on every device in use, Python's and NumPy's.

    Taken at the start of a batch and restored before the step is run once more, it makes dropout, noise and
    augmentation draw the very same numbers. It is made to be taken at every step: the states stay as the libraries hand
    them out (``torch.cuda`` keeps its own on the host, so no device is waited for), and those of the host are read only
    if they moved. Measured on a CPU, at the start of a training step, when nothing of it is left in the caches: some 12
    microseconds if nothing moved, where reading them all takes over 100.

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
        global _last, _watch  # one set of global generators, one memory of it
        devices = _device_states()
        if _watch is not None and _last is not None and not devices and _watch.holds():
            return _last
        state = cls(cpu_state(), devices, python_state(), numpy_state())
        _last, _watch = (None, None) if devices else (state, Watch.of_last_answers())
        return state

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


_last: RngState | None = None
_watch: Watch | None = None


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


def _plain(value: Any) -> Any:
    """``value`` with arrays and tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
