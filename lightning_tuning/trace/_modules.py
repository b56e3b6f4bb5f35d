"""Which module is running, by its path in the traced module."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

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
        self._paths = {
            id(module): clean_path(name) for name, module in reversed(list(root.named_modules(remove_duplicate=False)))
        }
        self._stack = [Running("", type(root).__name__, root.training, id(root))]
        self._leaving = leaving
        self._wrapped = any("_orig_mod" in module._modules for module in root.modules())  # by `torch.compile`
        self._quiet = ExitStack()
        self._handles: list[RemovableHandle] = []
        self._thread: int | None = None
        self._is_aside = False

    @property
    def running(self) -> Running:
        """The innermost module that is running."""
        return self._stack[-1]

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
        del self._stack[1:]

    def _looks(self) -> bool:
        """Not on other threads, and not at a replay in the middle of what is watched."""
        return threading.get_ident() == self._thread and is_aside() is self._is_aside

    def _enter(self, module: nn.Module, args: Any) -> None:
        if self._looks():
            path = self._paths.get(id(module))
            above = self._stack[-1]
            known = above if path is None else Running(path, type(module).__name__, module.training, id(module))
            self._stack.append(known._replace(module=id(module)))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._looks() or all(entry.module != id(module) for entry in self._stack[1:]):
            return
        while len(self._stack) > 1 and self._stack[-1].module != id(module):  # left by an exception
            self._stack.pop()
        self._leaving(output)
        self._stack.pop()
