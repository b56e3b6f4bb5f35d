"""A learning rate scheduler on paper: a copy that can be stepped without anything of the run being touched."""

from __future__ import annotations

import dis
import functools
import io
import pickle
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["CannotCopyError", "leaves", "paper_copy"]

_PLAIN = (int, float, complex, bool, str, bytes, type(None))
_CONTAINERS = (list, tuple, dict, set, frozenset, deque, Counter, OrderedDict, defaultdict)


class CannotCopyError(Exception):
    """The schedule hangs on something that cannot be copied; the message says on what."""


def paper_copy(scheduler: LRScheduler) -> LRScheduler:
    """``scheduler`` as it stands now, on an optimizer without parameters.

    A schedule's functions are copied with what they remember (attributes of callable objects, closures, default
    arguments), so that one that counts its calls is not advanced; modules in their reach are replaced by shallow
    stand-ins that log nothing. Everything else in their reach is shared.

    Raises:
        CannotCopyError: if a function of the schedule draws from an iterator or writes a global variable, or if
            something in the scheduler refuses to be copied.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
        >>> copied = paper_copy(scheduler)
        >>> for _ in range(3):
        ...     copied.step()
        >>> optimizer.param_groups[0]["lr"], scheduler.last_epoch, copied.last_epoch
        (0.1, 0, 3)
    """
    twins: dict[int, tuple[Any, Any]] = {id(scheduler.optimizer): (scheduler.optimizer, _Paper(scheduler.optimizer))}
    copied: LRScheduler = _copied(scheduler, twins)
    for leaf in leaves(copied):
        if hasattr(leaf, "base_lrs"):
            leaf.base_lrs = [float(rate) for rate in leaf.base_lrs]  # tensors would be computed with on their device
    return copied


def leaves(scheduler: Any) -> Iterator[Any]:
    """The schedulers that a ``SequentialLR`` or a ``ChainedScheduler`` is put together from; any other itself."""
    parts = getattr(scheduler, "_schedulers", None)
    if isinstance(parts, list | tuple):
        for part in parts:
            yield from leaves(part)
    else:
        yield scheduler


class _Paper(Optimizer):
    """The hyperparameters of another optimizer, and none of its parameters."""

    def __init__(self, real: Optimizer) -> None:
        groups = [
            {"params": [torch.zeros(1)], **{key: _number(value) for key, value in group.items() if key != "params"}}
            for group in real.param_groups
        ]
        super().__init__(groups, dict(real.defaults))
        self._opt_called = True  # else torch says that the optimizer should have been stepped first

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing: there is nothing to train."""


_Paper.step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Tensor) and value.numel() == 1 else value


def _copied(value: Any, twins: dict[int, tuple[Any, Any]]) -> Any:
    file = io.BytesIO()
    pickler = _Pickler(file, twins)
    try:
        pickler.dump(value)
        file.seek(0)
        return _Unpickler(file, pickler.kept).load()
    except CannotCopyError:
        raise
    except Exception as error:  # whatever a stranger's __reduce__ or __setstate__ raises
        raise CannotCopyError(f"{type(value).__name__} cannot be copied ({error})") from error


class _Pickler(pickle.Pickler):
    """Takes values apart as ``copy.deepcopy`` would, but asks about each whether it is to be kept whole."""

    def __init__(self, file: io.BytesIO, twins: dict[int, tuple[Any, Any]]) -> None:
        super().__init__(file, protocol=5)
        self.twins = twins  # by the id of the original, which is held on to, so that no id comes back
        self.kept: list[Any] = []
        self._taken_apart: set[int] = set()

    def persistent_id(self, obj: Any) -> int | None:
        if type(obj) in _PLAIN or type(obj) in _CONTAINERS or isinstance(obj, LRScheduler):
            return None
        if isinstance(obj, types.MethodType):
            self._taken_apart.add(id(obj.__self__))
            return None
        if id(obj) in self.twins:
            return self._keep(self.twins[id(obj)][1])
        if isinstance(obj, types.FunctionType):
            return self._keep(_function(obj, self.twins))
        if isinstance(obj, nn.Module):
            return self._keep(_stand_in(obj, self.twins))
        if isinstance(obj, Tensor):
            return self._keep(obj.detach().clone())
        if hasattr(type(obj), "__next__"):
            raise CannotCopyError(f"its schedule draws from a {type(obj).__name__}, which cannot be put back")
        if isinstance(obj, functools.partial) or id(obj) in self._taken_apart:
            return None
        if callable(obj) and not isinstance(obj, type | types.BuiltinFunctionType) and hasattr(obj, "__dict__"):
            return None
        return self._keep(obj)

    def _keep(self, obj: Any) -> int:
        self.kept.append(obj)
        return len(self.kept) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, kept: list[Any]) -> None:
        super().__init__(file)
        self._kept = kept

    def persistent_load(self, pid: Any) -> Any:
        return self._kept[pid]


def _function(function: types.FunctionType, twins: dict[int, tuple[Any, Any]]) -> Callable[..., Any]:
    """``function`` with cells and default arguments of its own; itself if it has none."""
    if any(instruction.opname == "STORE_GLOBAL" for instruction in dis.get_instructions(function)):
        raise CannotCopyError(f"`{function.__qualname__}` writes a global variable")
    if not function.__closure__ and not function.__defaults__ and not function.__kwdefaults__:
        twins[id(function)] = function, function
        return function
    cells = tuple(_cell(cell, twins) for cell in function.__closure__ or ())
    twin = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
    twins[id(function)] = function, twin  # before its cells are filled: it may be in one
    twin.__defaults__ = _copied(function.__defaults__, twins)
    twin.__kwdefaults__ = _copied(function.__kwdefaults__, twins)
    for cell, original in zip(cells, function.__closure__ or (), strict=True):
        _fill(cell, original, twins)
    return twin


def _cell(cell: types.CellType, twins: dict[int, tuple[Any, Any]]) -> types.CellType:
    """The twin of ``cell``, the same for every function that shares it."""
    if id(cell) not in twins:
        twins[id(cell)] = cell, types.CellType()
    twin: types.CellType = twins[id(cell)][1]
    return twin


def _fill(twin: types.CellType, original: types.CellType, twins: dict[int, tuple[Any, Any]]) -> None:
    if _is_filled(original) and not _is_filled(twin):
        twin.cell_contents = _copied(original.cell_contents, twins)


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _stand_in(module: nn.Module, twins: dict[int, tuple[Any, Any]]) -> nn.Module:
    """``module`` with the same parameters and a ``__dict__`` of its own, so that what is set on it stays in it."""
    twin = object.__new__(type(module))
    for name, value in vars(module).items():
        twin.__dict__[name] = type(value)(value) if type(value) in (list, dict, set, deque, Counter) else value
    for name in ("log", "log_dict", "print"):  # of a LightningModule
        if hasattr(module, name):
            twin.__dict__[name] = _nothing
    twins[id(module)] = module, twin
    return twin


def _nothing(*_: Any, **__: Any) -> None:
    return None
