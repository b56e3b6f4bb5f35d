"""One more thing to do when ``configure_model`` is done: every weight is there then, and nobody has looked at one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule

__all__ = ["after_configure_model"]

_HOOK = "configure_model"


def after_configure_model(
    pl_module: LightningModule, act: Callable[[], None], *, first: bool = False
) -> Callable[[], None]:
    """Have ``act()`` called once, behind the module's own ``configure_model``; returns a function that calls it off.

    Lightning runs the hook before it restores a checkpoint, makes the optimizers and lets DDP send rank 0's weights to
    all ranks. The hook is replaced on the instance and put back when it is called, or when nobody waits for it any
    more. A plain function: Lightning sees by its code that the hook is overridden, and ``functools.wraps`` would show
    it the one underneath, which may not be.

    Args:
        pl_module: whose hook it is.
        act: called without arguments.
        first: before those that asked earlier. Default: behind them.
    """
    waiting = _waiting(pl_module)
    waiting.insert(0 if first else len(waiting), act)

    def call_off() -> None:
        if any(other is act for other in waiting):
            waiting[:] = [other for other in waiting if other is not act]
        if not waiting:
            _take_off(pl_module)

    return call_off


def _waiting(pl_module: LightningModule) -> list[Callable[[], None]]:
    """Who waits for the hook; it is put on for the first."""
    current: Any = vars(pl_module).get(_HOOK)
    if hasattr(current, "waiting"):
        return current.waiting  # type: ignore[no-any-return]
    original = pl_module.configure_model
    waiting: list[Callable[[], None]] = []

    def configure_model() -> None:
        acts = list(waiting)
        waiting.clear()
        _take_off(pl_module)
        original()
        for act in acts:
            act()

    configure_model.waiting, configure_model.shadowed = waiting, current  # type: ignore[attr-defined]
    setattr(pl_module, _HOOK, configure_model)
    return waiting


def _take_off(pl_module: LightningModule) -> None:
    """Off with what nobody waits for; one that lies below another's replacement waits for that one to go."""
    attributes = vars(pl_module)
    while (top := attributes.get(_HOOK)) is not None and not getattr(top, "waiting", [None]):
        del attributes[_HOOK]
        if top.shadowed is not None:
            attributes[_HOOK] = top.shadowed
