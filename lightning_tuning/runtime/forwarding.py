"""Several callbacks as one: the hooks that they override, and no others."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch import Callback

from lightning_tuning.runtime.resting import leave_out_empty_hooks

__all__ = ["FORWARDED", "forward"]

_OWN = ("on_save_checkpoint", "on_load_checkpoint", "on_exception")

FORWARDED = tuple(name for name in vars(Callback) if name.startswith("on_") and name not in _OWN)
"""Hooks that a whole forwards as they are."""


def forward(whole: Callback, members: Iterable[Callback], callbacks: Sequence[Callback]) -> None:
    """Let ``whole``, one of the trainer's ``callbacks``, call the hooks that its ``members`` override.

    On the instance, since Lightning asks it: hooks that no member overrides stay Lightning's own empty ones.
    """
    for hook in FORWARDED:
        whole.__dict__.pop(hook, None)
        overriding = [m for m in members if getattr(type(m), hook) is not getattr(Callback, hook)]
        if overriding:
            hooks = [getattr(member, hook) for member in overriding]
            whole.__dict__[hook] = hooks[0] if len(hooks) == 1 else functools.partial(_call, hooks)
    leave_out_empty_hooks(whole, callbacks)


def _call(hooks: list[Any], *args: Any, **kwargs: Any) -> None:
    for hook in hooks:
        hook(*args, **kwargs)
