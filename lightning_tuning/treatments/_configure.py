"""One more learning rate scheduler in what ``configure_optimizers`` returns, whatever its shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import _configure_optimizers
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

__all__ = [
    "entries_of",
    "extend_configure_optimizers",
    "optimizer_indices",
    "optimizers_and_schedulers",
    "pick",
    "restore_configure_optimizers",
    "scheduler_in",
]

_HOOK = "configure_optimizers"


def extend_configure_optimizers(pl_module: LightningModule, extend: Callable[[Any], Any]) -> None:
    """Have ``pl_module.configure_optimizers()`` return ``extend(what it returned)``, until it is restored.

    On the instance, so that its class, and other instances, stay as they are. A plain function: Lightning sees by its
    code that the hook is overridden, and ``functools.wraps`` would show it the one underneath, which may not be.
    """
    replaced = vars(pl_module).get(_HOOK)
    configure = pl_module.configure_optimizers

    def configure_optimizers() -> Any:
        return extend(configure())

    configure_optimizers.replaced = replaced  # type: ignore[attr-defined]
    setattr(pl_module, _HOOK, configure_optimizers)


def restore_configure_optimizers(pl_module: LightningModule) -> None:
    """Take off every extension; of several callbacks the first one that comes here does it for all."""
    current: Any = vars(pl_module).get(_HOOK)
    while hasattr(current, "replaced"):
        delattr(pl_module, _HOOK)
        current = current.replaced
        if current is not None:
            setattr(pl_module, _HOOK, current)


def optimizers_and_schedulers(configured: Any) -> tuple[list[Optimizer], list[Any]]:
    """Both lists out of any return value that Lightning allows.

    Raises:
        MisconfigurationException: for one that it does not allow.
    """
    if configured is None:
        raise MisconfigurationException("`configure_optimizers` returned None: there is no learning rate to schedule.")
    optimizers, schedulers, monitor = _configure_optimizers(configured)
    # A scheduler beside its optimizer in one dict may leave its metric to the dict's "monitor".
    if monitor is not None:
        schedulers = [s if isinstance(s, dict) else {"scheduler": s, "monitor": monitor} for s in schedulers]
    return optimizers, schedulers


def entries_of(optimizer: Optimizer, entries: list[Any]) -> list[Any]:
    """What of ``entries`` (schedulers, or dicts with one) drives ``optimizer``."""
    return [entry for entry in entries if getattr(scheduler_in(entry), "optimizer", None) is optimizer]


def scheduler_in(entry: Any) -> Any:
    """The scheduler of an entry."""
    return entry.get("scheduler") if isinstance(entry, dict) else entry


def optimizer_indices(optimizer: Any) -> tuple[int, ...] | None:
    """The argument ``optimizer`` of a treatment, checked; ``None`` stands for all.

    Raises:
        ValueError: unless it is ``None``, an index or several.
    """
    if optimizer is None:
        return None
    indices = tuple(optimizer) if isinstance(optimizer, Sequence) else (optimizer,)
    if not indices or not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in indices):
        raise ValueError(f"`optimizer` must be None, an index of at least 0, or several, got {optimizer!r}.")
    if len(set(indices)) < len(indices):
        raise ValueError(f"`optimizer` must name each index once, got {optimizer!r}.")
    return indices


def pick(owner: str, indices: tuple[int, ...] | None, optimizers: list[Optimizer]) -> list[Optimizer]:
    """Those of ``optimizers`` that ``indices`` name.

    Raises:
        MisconfigurationException: if there is none of an index.
    """
    for index in indices or ():
        if index >= len(optimizers):
            raise MisconfigurationException(
                f"{owner}(optimizer={index}): `configure_optimizers` returned {len(optimizers)} optimizer(s)."
            )
    return optimizers if indices is None else [optimizers[index] for index in indices]
