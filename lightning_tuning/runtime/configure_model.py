"""One more thing to do when ``configure_model`` is done: every weight is there then, and nobody has looked at one."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch import LightningModule

__all__ = ["after_configure_model"]

_HOOK = "configure_model"


def after_configure_model(pl_module: LightningModule, act: Callable[[], None]) -> Callable[[], None]:
    """Have ``act()`` called once, behind the module's own ``configure_model``; returns a function that calls it off.

    Lightning runs the hook before it restores a checkpoint, makes the optimizers and lets DDP send rank 0's weights to
    all ranks. The hook is replaced on the instance and put back when it is called. A plain function: Lightning sees by
    its code that the hook is overridden, and ``functools.wraps`` would show it the one underneath, which may not be.
    """
    attributes = vars(pl_module)
    original = pl_module.configure_model

    def configure_model() -> None:
        wanted = not configure_model.over  # type: ignore[attr-defined]
        call_off()
        original()
        if wanted:
            act()

    def call_off() -> None:
        configure_model.over = True  # type: ignore[attr-defined]
        while getattr(top := attributes.get(_HOOK), "over", False):  # one that lies below another waits for that one
            shadowed = getattr(top, "shadowed", None)
            del attributes[_HOOK]
            if shadowed is not None:
                attributes[_HOOK] = shadowed

    configure_model.over, configure_model.shadowed = False, attributes.get(_HOOK)  # type: ignore[attr-defined]
    attributes[_HOOK] = configure_model
    return call_off
