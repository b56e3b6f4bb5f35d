"""Hooks of the training step that cost nothing while nobody needs them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lightning.pytorch import Callback

__all__ = ["IN_EACH_STEP", "leave_out_empty_hooks", "rest", "wake"]

IN_EACH_STEP = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def rest(callback: Callback, wanted: Collection[str]) -> None:
    """Let ``callback`` be called in no hook of the training step but the ``wanted`` ones, until it wakes.

    ``None`` on the instance: Lightning passes over what it cannot call, where an empty hook takes it some 6
    microseconds (the context of its profiler), a thousandth of a small net's step. For callbacks that only Lightning
    calls.

    Example:
        >>> callback = Callback()
        >>> rest(callback, wanted=["on_train_batch_end"])
        >>> callback.on_before_backward, callable(callback.on_train_batch_end)
        (None, True)
        >>> wake(callback)
        >>> callable(callback.on_before_backward)
        True
    """
    for hook in IN_EACH_STEP:
        if hook in wanted:
            callback.__dict__.pop(hook, None)
        else:
            callback.__dict__[hook] = None


def wake(callback: Callback) -> None:
    """Let ``callback`` be called in every hook again."""
    rest(callback, IN_EACH_STEP)


def leave_out_empty_hooks(callback: Callback, callbacks: Sequence[Callback]) -> None:
    """Let ``callback`` not be called in the hooks of the training step that it does not override.

    Nothing is done to one that is not among the trainer's ``callbacks``: whoever calls it may not know to pass over.
    """
    if any(callback is other for other in callbacks):
        for hook in IN_EACH_STEP:
            if getattr(type(callback), hook) is getattr(Callback, hook):
                callback.__dict__.setdefault(hook, None)
