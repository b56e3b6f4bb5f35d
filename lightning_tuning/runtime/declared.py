"""What a run is declared to do on purpose, so that checks do not call it a mistake."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from lightning.pytorch import Trainer

__all__ = ["declare_frozen", "declared_frozen"]

_frozen: weakref.WeakKeyDictionary[Trainer, set[str]] = weakref.WeakKeyDictionary()


def declare_frozen(trainer: Trainer, names: Iterable[str] | None) -> None:
    """The modules of these dotted names, and what is in them, stay in evaluation mode; ``None`` forgets them all."""
    if names is None:
        _frozen.pop(trainer, None)
    else:
        _frozen.setdefault(trainer, set()).update(names)


def declared_frozen(trainer: Trainer) -> frozenset[str]:
    """What was declared in this fit."""
    return frozenset(_frozen.get(trainer, ()))
