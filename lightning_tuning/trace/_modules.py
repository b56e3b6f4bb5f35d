"""Which module is running, by its path in the traced module."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from lightning_tuning.trace._source import Entered
from lightning_tuning.trace.aside import is_aside

__all__ = ["ModuleStack", "Running", "clean_path"]


class Running(NamedTuple):
    """A module that is running; one that is not part of the traced module goes by the nearest around it that is."""

    path: str
    type_name: str
    training: bool
    module: int


def clean_path(name: str) -> str:
    """``name`` without the wrappers that ``torch.compile`` puts into it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


class ModuleStack:
    """Follows the calls of modules by global hooks, from :meth:`start` to :meth:`stop`, on the thread that started it.

    Args:
        root: the module whose path is ``""``; it counts as running from the start.
        leaving: called with a module's output just before it is left.
    """

    def __init__(self, root: nn.Module, leaving: Callable[[Any], None]) -> None:
        named = list(root.named_modules(remove_duplicate=False))
        self._wrapped = any("_orig_mod" in module._modules for _, module in named)  # by `torch.compile`
        clean = clean_path if self._wrapped else str
        self._paths = {id(module): clean(name) for name, module in reversed(named)}
        self._stack = [Running("", type(root).__name__, root.training, id(root))]
        self._entered = [Entered(None)]
        self._leaving = leaving
        self._quiet = ExitStack()
        self._handles: list[RemovableHandle] = []
        self._thread: int | None = None
        self._is_aside = False

    @property
    def running(self) -> Running:
        """The innermost module that is running."""
        return self._stack[-1]

    @property
    def entered(self) -> list[Entered]:
        """From where the running modules were called, outermost first; the root was not."""
        return self._entered

    def start(self) -> None:
        """Put the hooks in place."""
        self._thread, self._is_aside = threading.get_ident(), is_aside()
        if self._wrapped:
            self._quiet.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks", UserWarning)
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]

    def stop(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._quiet.close()
        del self._stack[1:], self._entered[1:]

    def _looks(self) -> bool:
        """Not on other threads, and not at a replay in the middle of what is watched."""
        return threading.get_ident() == self._thread and is_aside() is self._is_aside

    def _enter(self, module: nn.Module, args: Any) -> None:
        if self._looks():
            path = self._paths.get(id(module))
            if path is None:
                known = self._stack[-1]._replace(module=id(module))
            else:
                known = Running(path, type(module).__name__, module.training, id(module))
            self._stack.append(known)
            self._entered.append(Entered(sys._getframe(1)))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._looks():
            return
        here = id(module)
        if self._stack[-1].module != here or len(self._stack) == 1:
            depth = next((i for i in range(len(self._stack) - 1, 0, -1) if self._stack[i].module == here), 0)
            if not depth:
                return
            del self._stack[depth + 1 :], self._entered[depth + 1 :]  # left by an exception
        self._leaving(output)
        self._stack.pop()
        self._entered.pop()
