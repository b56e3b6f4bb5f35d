"""Putting things back: tensors, containers, modules and generators as they were, bit for bit."""

from __future__ import annotations

import operator
import random
import sys
from collections import UserDict, UserList, deque
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["Restorer"]

_REGISTRIES = frozenset({"_parameters", "_buffers", "_modules"})
_INTERNAL = frozenset(nn.Module().__dict__) - _REGISTRIES - {"training"}
"""Hook tables and the like, left alone: a handle made before must still find its table."""

_CLONED_ITEMS = 10_000
"""Longer containers (a replay buffer) are put back as to what they hold, without a copy of each tensor in them."""


class Restorer:
    """Takes things in, gives stand-ins where the real ones must not be touched, and at the end puts everything back.

    Tensors that are attributes, buffers or items of a container are *replaced* by clones: autograd counts writes to a
    tensor, and a backward pass that is still to come refuses one that was written to, even if the old values were
    copied back. Parameters stay themselves (optimizers and hooks know them by identity); their values, gradient,
    ``requires_grad`` and write counter are put back. Clones have no history: a gradient does not flow from them into an
    earlier step.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._seen: dict[int, Any] = {}  # id -> stand-in; aliases stay aliases, cycles end
        self._keep: list[Any] = []  # so that no id is given to something else meanwhile

    def restore(self) -> None:
        """Put everything back, the last taken first."""
        while self._undo:
            self._undo.pop()()
        self._seen.clear()
        self._keep.clear()

    def on_restore(self, undo: Callable[[], object]) -> None:
        """Call ``undo`` too."""
        self._undo.append(undo)

    def module(self, module: nn.Module) -> None:
        """Take in the module and all below it: parameters, buffers, training flags and plain attributes."""
        for part in module.modules():
            if id(part) not in self._seen:
                self._remember(part, part)
                self._attributes(part)

    def value(self, value: Any) -> Any:
        """Take in a value; returns what to use in its place (itself, unless it is a tensor or a tuple of tensors)."""
        if id(value) in self._seen:
            return self._seen[id(value)]
        if isinstance(value, nn.Parameter):
            self.parameter(value)
        elif isinstance(value, Tensor):
            return self._remember(value, _clone(value))
        elif isinstance(value, nn.Module):
            self.module(value)
        elif isinstance(value, dict | list | deque | set):
            self._container(value)
        elif isinstance(value, UserDict | UserList):
            self._container(value.data)
        elif isinstance(value, tuple):
            return self._tuple(value)
        else:
            self._generator(value)
        return value

    def parameter(self, parameter: Tensor) -> None:
        """Take in a tensor that stays itself; its gradient is ``None`` until it is put back."""
        if id(parameter) in self._seen:
            return
        self._remember(parameter, parameter)
        data, grad, flag, version = parameter.data, parameter.grad, parameter.requires_grad, parameter._version
        copy = data.clone()
        parameter.grad = None

        def undo() -> None:
            parameter.requires_grad_(flag)
            if parameter.data_ptr() != data.data_ptr() or parameter.shape != data.shape:
                parameter.data = data
            parameter.data.copy_(copy)  # through .data, a write that autograd does not count
            _set_version(parameter, version)
            parameter.grad = grad

        self._undo.append(undo)

    def read_only(self, tensor: Tensor) -> None:
        """Take in a tensor that is only to be read (a batch's), and write it back in case it was written to."""
        if id(tensor) in self._seen or tensor.layout is not torch.strided or tensor.is_inference():
            return  # an inference tensor cannot be written to
        self._remember(tensor, tensor)
        copy, version = tensor.detach().clone(), tensor._version

        def undo() -> None:
            if tensor._version != version:
                tensor.data.copy_(copy)
                _set_version(tensor, version)

        self._undo.append(undo)

    def containers(self, value: Any) -> None:
        """Take in what nested containers hold, without stand-ins for it."""
        if isinstance(value, UserDict | UserList):
            self.containers(value.data)
        elif isinstance(value, dict | list | deque) and id(value) not in self._seen:
            self._remember(value, value)
            items = self._put_back_items(value)
            for item in items.values() if isinstance(items, dict) else items:
                self.containers(item)
        elif isinstance(value, tuple):
            for item in value:
                self.containers(item)

    def _remember(self, value: Any, stand_in: Any) -> Any:
        self._seen[id(value)] = stand_in
        self._keep.append(value)
        return stand_in

    def _attributes(self, module: nn.Module) -> None:
        if isinstance(module, torch.jit.ScriptModule):  # its buffers live in C++ and cannot be swapped
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                self.parameter(tensor)
            return
        attributes = module.__dict__
        saved = dict(attributes)

        def undo() -> None:
            for name in attributes.keys() - saved.keys():
                del attributes[name]
            for name, value in saved.items():
                if attributes.get(name, module) is not value:
                    attributes[name] = value

        self._undo.append(undo)
        for name, value in saved.items():
            if name not in _INTERNAL and (stand_in := self.value(value)) is not value:
                attributes[name] = stand_in

    def _container(self, container: Any) -> None:
        self._remember(container, container)
        items = self._put_back_items(container)
        if len(items) > _CLONED_ITEMS or isinstance(items, set):
            return
        for key, value in items.items() if isinstance(items, dict) else enumerate(items):
            if (stand_in := self.value(value)) is not value:
                container[key] = stand_in

    def _put_back_items(self, container: Any) -> dict[Any, Any] | set[Any] | list[Any]:
        """Have the container filled again with what it holds now, which is returned."""
        items = container.copy() if isinstance(container, set) else _items(container)

        def undo() -> None:
            if isinstance(items, set):
                container.clear()
                container.update(items)
            elif not _same(items, _items(container)):
                container.clear()
                if isinstance(items, list):
                    container.extend(items)
                else:
                    for key, value in items.items():  # item by item: `Counter.update` would add
                        container[key] = value

        self._undo.append(undo)
        return items

    def _tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        items = [self.value(item) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        make = getattr(type(value), "_make", type(value))  # named tuples
        stand_in: tuple[Any, ...] = self._remember(value, make(items))
        return stand_in

    def _generator(self, value: Any) -> None:
        """A random number generator of the model's own goes back to its state; anything else is left alone."""
        numpy = sys.modules.get("numpy")
        state: Any
        if isinstance(value, torch.Generator):
            state = value.get_state()
            self._undo.append(lambda: value.set_state(state))
        elif isinstance(value, random.Random):
            state = value.getstate()
            self._undo.append(lambda: value.setstate(state))
        elif numpy is not None and isinstance(value, numpy.random.RandomState):
            state = value.get_state()
            self._undo.append(lambda: value.set_state(state))
        elif numpy is not None and isinstance(value, numpy.random.Generator):
            bits = value.bit_generator
            state = bits.state
            self._undo.append(lambda: setattr(bits, "state", state))


def _items(container: Any) -> dict[Any, Any] | list[Any]:
    return dict(container) if isinstance(container, dict) else list(container)


def _same(first: dict[Any, Any] | list[Any], second: dict[Any, Any] | list[Any]) -> bool:
    """Whether both hold the very same objects in the same order."""
    return len(first) == len(second) and all(map(operator.is_, _flat(first), _flat(second)))


def _flat(items: dict[Any, Any] | list[Any]) -> Iterable[Any]:
    return chain(items.keys(), items.values()) if isinstance(items, dict) else items


def _clone(tensor: Tensor) -> Tensor:
    """A copy without history that asks for gradients where the original did."""
    return tensor if is_lazy(tensor) else tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _set_version(tensor: Tensor, version: int) -> None:
    if tensor._version != version:  # the values are the old ones again, so a graph that saved them is right to use them
        torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))
