"""Whose code is running: the user's source line, and whether an optimizer or a custom autograd function asks."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

import torch
from torch.utils.checkpoint import CheckpointFunction

__all__ = ["Caller", "Callers"]

_USER, _LIBRARY, _TORCH, _OPTIMIZER = range(4)
_LIBRARIES = ("lightning", "lightning_fabric", "pytorch_lightning", "torchmetrics")
_APPLY = torch.autograd.Function.apply.__code__
_CHECKPOINT = CheckpointFunction.forward.__code__


class Caller(NamedTuple):
    """Who called an operation.

    Attributes:
        source_line: ``"file.py:123"`` of the nearest line of the user's code.
        optimizer: it is an optimizer at its update.
        function: the frame of ``autograd.Function.apply`` within whose forward pass it happened.
        checkpoint: it happened within a reentrant activation checkpoint; autograd is off in there, yet gradient flows.
    """

    source_line: str | None
    optimizer: bool = False
    function: FrameType | None = None
    checkpoint: bool = False


class Entered:
    """Where a module was called from: all that happens within it, outside of a user's own code, has the same caller.

    Attributes:
        frame: torch's own, that runs the module's ``forward``; kept while the module runs.
        caller: as found by the first who asked.
    """

    __slots__ = ("caller", "frame")

    def __init__(self, frame: FrameType | None) -> None:
        self.frame = frame
        self.caller: Caller | None = None


class Callers:
    """Looks up the stack; what it learns of a file it remembers."""

    def __init__(self) -> None:
        self._kinds: dict[str, int] = {}
        self._shown: dict[str, str] = {}
        self._lines: dict[tuple[CodeType, int], Caller] = {}
        self._roots = _library_roots(*(getattr(sys.modules.get(name), "__file__", None) for name in _LIBRARIES))
        self._optimizers = _folder(torch.optim.__file__)

    def nearest(self, entered: Sequence[Entered], *, deep: bool) -> Caller:
        """The caller of the operation at hand.

        Args:
            entered: from where the modules that are running were called, outermost first; saves most of the way up.
            deep: look beyond the user's nearest line for custom autograd functions, activation checkpoints and the
                user's own optimizers; they all run with autograd switched off.
        """
        frame: FrameType | None = sys._getframe(1)
        if deep:
            return self._walk(frame, deep=True)
        passed = []
        level = len(entered) - 1
        caller: Caller | None = None
        while frame is not None and caller is None:
            filename = frame.f_code.co_filename
            kind = self._kinds.get(filename)
            if kind is None:
                kind = self._kind(filename)
            if kind == _USER:
                caller = self._at(frame)
            elif kind != _TORCH:
                caller = self._walk(frame, deep=False)
            elif frame is entered[level].frame:
                caller = entered[level].caller
                passed.append(entered[level])
                level -= 1
            frame = frame.f_back
        caller = caller or Caller(None)
        for entry in passed:
            entry.caller = caller
        return caller

    def of(self, frame: FrameType) -> Caller:
        """The caller of what runs, or has failed, in ``frame``."""
        return self._walk(frame, deep=False)

    def _walk(self, frame: FrameType | None, *, deep: bool) -> Caller:
        line: str | None = None
        in_torch = True  # an update happens in torch's own frames; a training step called from an optimizer does not
        users: list[str] = []  # the user's functions between here and the next frame of Lightning or of an optimizer
        while frame is not None:
            code = frame.f_code
            kind = self._kind(code.co_filename)
            if kind == _OPTIMIZER:
                own_step = (
                    code.co_name == "wrapper"
                    and users[-1:] == ["step"]
                    and not any("closure" in name for name in users)
                )
                if in_torch or own_step:
                    return Caller(line, optimizer=True)
                users.clear()
            elif kind == _USER:
                in_torch = False
                users.append(code.co_name)
                if not deep:
                    return self._at(frame)
                if line is None:
                    line = self._at(frame).source_line
            elif kind == _LIBRARY:
                in_torch = False
                users.clear()
            elif deep and code is _APPLY:
                return self._applied(frame)
            elif deep and code is _CHECKPOINT:
                return Caller(line or self._walk(frame.f_back, deep=True).source_line, checkpoint=True)
            frame = frame.f_back
        return Caller(line)

    def _applied(self, frame: FrameType) -> Caller:
        """The caller of a custom function."""
        outer = self._walk(frame.f_back, deep=True)
        return Caller(outer.source_line, function=frame, checkpoint=outer.checkpoint)

    def _at(self, frame: FrameType) -> Caller:
        """The user's line that ``frame`` is at."""
        key = frame.f_code, frame.f_lineno
        caller = self._lines.get(key)
        if caller is None:
            caller = self._lines[key] = Caller(f"{self._show(frame.f_code.co_filename)}:{frame.f_lineno}")
        return caller

    def _kind(self, filename: str) -> int:
        kind = self._kinds.get(filename)
        if kind is None:
            kind = self._kinds[filename] = self._classify(filename)
        return kind

    def _classify(self, filename: str) -> int:
        if filename.startswith(self._optimizers):
            return _OPTIMIZER
        for root, kind, user_part in self._roots:
            if filename.startswith(root) and not (user_part and filename.startswith(user_part)):
                return kind
        return _TORCH if filename.startswith("<frozen") else _USER

    def _show(self, filename: str) -> str:
        """Relative to the working directory if inside; of an installed package what follows ``site-packages``."""
        shown = self._shown.get(filename)
        if shown is None:
            shown = filename
            if os.sep in filename:
                path, here = Path(filename), Path.cwd()
                if "site-packages" in path.parts:
                    shown = str(Path(*path.parts[path.parts.index("site-packages") + 1 :]))
                elif path.is_relative_to(here):
                    shown = str(path.relative_to(here))
            self._shown[filename] = shown
        return shown


@lru_cache(maxsize=4)
def _library_roots(*files: str | None) -> list[tuple[str, int, str]]:
    """Folders of code that is nobody's model: path, kind of its frames, a part that is like a user's.

    Args:
        files: where the :data:`_LIBRARIES` lie, ``None`` for those that nobody has imported.
    """
    roots = [(_folder(torch.__file__), _TORCH, ""), (_folder(__file__, 2), _TORCH, "")]
    for name, file in zip(_LIBRARIES, files, strict=True):
        if file is not None:
            demos = Path(file).parent / ("pytorch/demos" if name == "lightning" else "demos")
            roots.append((_folder(file), _LIBRARY, f"{demos}{os.sep}"))
    standard = f"{sysconfig.get_path('stdlib')}{os.sep}"
    return [*roots, (standard, _TORCH, str(Path(standard) / "site-packages"))]


def _folder(file: str | None, up: int = 1) -> str:
    return f"{Path(str(file)).parents[up - 1]}{os.sep}"
