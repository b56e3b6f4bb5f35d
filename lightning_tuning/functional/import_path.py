"""Functions and classes by their dotted import path, as configs write them."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["imported"]


def imported(path: str) -> Any:
    """The object at ``"package.module.name"``.

    Args:
        path: with a dot in it at least.

    Raises:
        ValueError: if there is no such module, or it has no such name.

    Example:
        >>> imported("torch.nn.init.trunc_normal_").__name__
        'trunc_normal_'
        >>> imported("torch.nn.Lnear")
        Traceback (most recent call last):
        ...
        ValueError: 'torch.nn.Lnear' cannot be imported: module 'torch.nn' has no attribute 'Lnear'.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{path!r} cannot be imported: {error}.") from error
