"""What the callbacks themselves cost: timed in a few steps now and then, and in no other."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from lightning_tuning.runtime.resting import IN_EACH_STEP

__all__ = ["StopWatch", "memory"]

_STATM = Path("/proc/self/statm")

_MB = 2**20


class StopWatch:
    """Times the hooks of the training step of some callbacks, from :meth:`start` to :meth:`stop`.

    While it runs a hook that is called anyway has a function around it (some .3 microseconds), on the instance; before
    and after nothing is there. What Lightning takes to call a hook (some 6 microseconds) is not counted, nor are hooks
    put on modules and optimizers.

    Example:
        >>> class Sleeper(Callback):
        ...     def on_before_backward(self, *_):
        ...         print("called")
        >>> sleeper, watch = Sleeper(), StopWatch()
        >>> watch.start([sleeper])
        >>> sleeper.on_before_backward()
        called
        >>> watch.stop() > 0, vars(sleeper)
        (True, {})
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._wrapped: list[tuple[Callback, str, Callable[..., Any], Any]] = []
        self._since: float | None = None

    @property
    def runs(self) -> bool:
        """It was started."""
        return bool(self._wrapped)

    def start(self, callbacks: Sequence[Callback]) -> None:
        """Begin to time the hooks of ``callbacks``, from zero."""
        self._seconds = 0.0
        for callback in callbacks:
            for hook in IN_EACH_STEP:
                call = getattr(callback, hook)
                if callable(call) and getattr(call, "__func__", None) is not getattr(Callback, hook):
                    timed = self._timed(call)
                    self._wrapped.append((callback, hook, timed, callback.__dict__.get(hook)))
                    callback.__dict__[hook] = timed

    def stop(self) -> float:
        """Seconds in the hooks since :meth:`start`, of which nothing is left on the callbacks."""
        for callback, hook, timed, before in self._wrapped:
            if callback.__dict__.get(hook) is not timed:
                continue  # it was put to rest, or woken, in the meantime
            if before is None:
                del callback.__dict__[hook]
            else:
                callback.__dict__[hook] = before
        self._wrapped.clear()
        under_way = 0.0 if self._since is None else time.perf_counter() - self._since  # of the hook that calls this
        return self._seconds + under_way

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*arguments: Any, **named: Any) -> Any:
            self._since = began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self._seconds += time.perf_counter() - began
                self._since = None

        return timed


def memory(device: torch.device) -> dict[str, float]:
    """MB that the process holds (Linux), and that torch has allocated on an accelerator; neither waits for it."""
    found = {}
    if _STATM.exists():
        found["rss_mb"] = int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MB
    if device.type == "cuda":
        found["device_allocated_mb"] = torch.cuda.memory_allocated(device) / _MB
    return found
